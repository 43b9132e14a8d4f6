# One image for web, worker, beat and setup. The base images are arguments for machines that reach another registry:
#   docker build --build-arg BUILD_IMAGE=… --build-arg BASE_IMAGE=… .
# Both need the same python3 (3.11 to 3.13) at the same path; BUILD_IMAGE also a C compiler where a package has no wheel.
ARG BUILD_IMAGE=python:3.12
ARG BASE_IMAGE=python:3.12-slim

FROM ${BUILD_IMAGE} AS packages
RUN python3 -m venv /opt/portal
COPY requirements.txt /
RUN /opt/portal/bin/pip install --no-cache-dir --require-hashes -r /requirements.txt

FROM packages AS compiled
COPY . /app
WORKDIR /app
# Where BUILD_IMAGE has no C compiler the folder stays empty, and the portal runs the sources.
RUN mkdir .compiled && /opt/portal/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && /opt/portal/bin/python -m vllm_portal.compiling

FROM ${BASE_IMAGE}
RUN useradd --system --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin portal \
    && install -d -o portal -m 0700 /data /data/compile-cache \
    && install -d -o portal -m 0755 /hf-cache
COPY --from=packages /opt/portal /opt/portal
WORKDIR /app
COPY . .
COPY --from=compiled /app/.compiled .compiled
ENV PATH=/opt/portal/bin:$PATH PYTHONUNBUFFERED=1 PORTAL_DATA_DIR=/data
RUN python -m compileall -q .
USER portal
VOLUME ["/data", "/data/compile-cache", "/hf-cache"]
EXPOSE 8086
CMD ["python", "-m", "vllm_portal.web"]
