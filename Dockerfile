# docker build -t viewmill .
# docker run --rm --gpus all --ipc=host -v "$PWD:/data" viewmill train --data images.beton --out run
#
# The same steps and versions as `make setup` on Debian 12, since setup.sh makes both. Linted by `make lint` (hadolint).

FROM debian:bookworm-slim AS build
# The DALI flavour, an extra of pyproject.toml: dali-cuda13, dali-cuda12, or empty for none.
ARG DALI=dali-cuda13
WORKDIR /src
# These three decide what is installed: a change of code alone reuses the layer below.
COPY setup.sh pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip VENV=/opt/viewmill EXTRAS="$DALI,parquet,timm,track,transfer,export,report" ./setup.sh packages
COPY . .
RUN /opt/viewmill/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="viewmill" \
      org.opencontainers.image.description="Folders of images into contrastive representations" \
      org.opencontainers.image.licenses="Apache-2.0"
# What FFCV (OpenCV, TurboJPEG) and the Python package cv2 that it imports (GL, GLib) load. Debian's mirrors keep one version
# of each, so a pinned one would fail to build soon.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libgl1 libglib2.0-0 libopencv-core406 libopencv-imgproc406 libturbojpeg0 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home viewmill \
    && install --directory --owner viewmill --group viewmill /data
COPY --from=build /opt/viewmill /opt/viewmill
# The caches of compiled kernels need a place that any user may write to, `docker run --user` included.
ENV PATH=/opt/viewmill/bin:$PATH \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["viewmill"]
