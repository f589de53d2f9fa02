# otbsr in a container; how to run it: doc/containers.md
#   docker build -t otbsr . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" otbsr apply IN.SAFE --model /opt/otbsr/models/f-light-x4 -o sr_2m5.tif
# What is installed lies in tools/container.sh, which otbsr.def runs too. Without a registry: tools/image.sh; without an engine: tools/test-container.sh.
ARG DEBIAN=debian:12-slim

FROM ${DEBIAN} AS build
# Of a release; git is not in the image.
ARG VERSION=""
COPY . /src
RUN VERSION=${VERSION} sh /src/tools/container.sh build /src /wheels

FROM ${DEBIAN}
COPY --from=build /wheels /wheels
COPY tools/container.sh constraints.txt /opt/otbsr/setup/
RUN sh /opt/otbsr/setup/container.sh run /wheels /opt/otbsr/setup/constraints.txt && rm -rf /wheels /opt/otbsr/setup
COPY models /opt/otbsr/models
ENV PATH=/opt/otbsr/venv/bin:$PATH TF_CPP_MIN_LOG_LEVEL=2
USER otbsr
WORKDIR /data
ENTRYPOINT ["otbsr"]
CMD ["--help"]
