# syntax=docker/dockerfile:1
# The image of deploy/rayjob.yaml, and of one machine with an engine (docs/cluster.md, "Image").

# torch brings CUDA's libraries along and needs the driver alone from the machine, so a plain Python will do.
# A base of CUDA's, as nvidia/cuda:13.0.2-base-ubuntu24.04, does too: it gets Ubuntu's Python.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# wget: KubeRay's probes of a pod's health call it. tini: ends what a container's first process leaves behind.
# The versions are those of the base: pinned, they would vanish from its archive with the next repair.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini wget \
    && { command -v python3 || apt-get install --yes --no-install-recommends python3 python3-venv; } \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/seqsweep/.venv \
    # KubeRay may start Ray in a login shell, for which /etc/profile sets PATH anew.
    && echo "export PATH=/opt/seqsweep/.venv/bin:\$PATH" > /etc/profile.d/seqsweep.sh \
    && useradd --create-home --uid 1000 --non-unique seqsweep \
    && install --directory --owner=1000 --group=1000 /work

# Dependencies first: this layer, the largest, is made again only when they change. The packages are
# empty here, as they are installed from where they lie; but packages, which a folder without __init__.py is not.
# PIP_EXTRA_INDEX_URL: an index of builds of torch for CPUs, much smaller; else the CUDA build of PyPI.
WORKDIR /opt/seqsweep
COPY pyproject.toml constraints.txt README.md LICENSE ./
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    .venv/bin/python -c "import pathlib, tomllib; \
        named = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['tool']['setuptools']['packages']; \
        folders = [pathlib.Path(*(name.split('.')[1:] or [name])) for name in named]; \
        [(folder.mkdir(), (folder / '__init__.py').touch()) for folder in folders]" \
    && .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt torch -e .
COPY . .

# Of older container runtimes; where the runtime sets them itself they change nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# USER: torch asks for the user's name, which one given by number alone does not have.
ENV PATH="/opt/seqsweep/.venv/bin:$PATH" PYTHONUNBUFFERED=1 RAY_AUTH_MODE=token USER=seqsweep
USER 1000
WORKDIR /work
ENTRYPOINT ["tini", "--", "seqsweep"]
CMD ["--help"]
