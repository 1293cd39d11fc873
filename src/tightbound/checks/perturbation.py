quiz = None
