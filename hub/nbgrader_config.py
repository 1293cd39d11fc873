"""nbgrader on a hub, for students and teachers alike: one file, in a folder of `jupyter --paths` that all servers read
(/opt/tljh/user/etc/jupyter on The Littlest JupyterHub, /etc/jupyter in the image)."""

import os

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = os.environ.get("TIGHTBOUND_COURSE", "tightbound")
c.Exchange.root = os.environ.get("TIGHTBOUND_EXCHANGE", "/srv/nbgrader/exchange")
c.Exchange.timezone = "UTC"

# A student hands in under the name that the hub knows, whatever the system calls the account. A teacher collects from
# everybody, so that nothing is said of whom. `make grade` reads what was collected, and knows who sent it by its folder.
user = os.environ.get("JUPYTERHUB_USER", "")
if user and user not in os.environ.get("TIGHTBOUND_TEACHERS", "").split(","):
    c.CourseDirectory.student_id = user
c.ExchangeCollect.check_owner = False  # accounts of the system are named otherwise than users of the hub
