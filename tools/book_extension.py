def setup(app):
    app.add_css_file("book.css")
