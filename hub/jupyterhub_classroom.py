"""The course on a hub of one machine: The Littlest JupyterHub reads it from /opt/tljh/config/jupyterhub_config.d/.
Memory, processors and culling are set by tljh-config, as README.md says."""

import os

c = get_config()  # noqa: F821

TEACHERS = os.environ.get("TIGHTBOUND_TEACHERS", "teacher")  # names of the hub, separated by commas
GPU_GROUP = "gpu"  # who is in this group of the hub sees the GPU, all others compute on the CPU

c.Spawner.environment.update({
    "TIGHTBOUND_COURSE": os.environ.get("TIGHTBOUND_COURSE", "tightbound"),
    "TIGHTBOUND_EXCHANGE": os.environ.get("TIGHTBOUND_EXCHANGE", "/srv/nbgrader/exchange"),
    "TIGHTBOUND_TEACHERS": TEACHERS,
    "OMP_NUM_THREADS": "1",  # many small problems on shared cores: one thread each is fastest for all
})
c.Spawner.default_url = "/lab"
c.Spawner.args = ["--MappingKernelManager.cull_idle_timeout=1800", "--MappingKernelManager.cull_interval=300"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 180  # when a whole class begins in the same minute
c.JupyterHub.concurrent_spawn_limit = 2 * (os.cpu_count() or 1)  # who comes later is asked to wait a few seconds


def cpu_or_gpu(spawner) -> None:
    if GPU_GROUP in {group.name for group in spawner.user.groups}:
        spawner.environment.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        spawner.environment["CUDA_VISIBLE_DEVICES"] = ""


c.Spawner.pre_spawn_hook = cpu_or_gpu
