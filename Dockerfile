# Telegraf with our plugins and the other commands, static, on nothing but certificates and time zones; without a shell,
# and not as root. docker build -t telegraf-victorialogs .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG TARGETVARIANT=
WORKDIR /src
COPY . .
RUN make dist-binaries .build/dist/dist PLATFORM=$TARGETOS/$TARGETARCH$TARGETVARIANT DIST_BIN=/root-fs/usr/bin
RUN .build/dist/dist -version "$(cat VERSION)" -platform $TARGETOS/$TARGETARCH$TARGETVARIANT -bin /root-fs/usr/bin \
	-papers -out /root-fs/usr/share/doc/telegraf-victorialogs
RUN install -D -m 644 sample.conf /root-fs/etc/telegraf-victorialogs/telegraf.conf \
	&& install -D -m 644 -t /root-fs/usr/share/doc/telegraf-victorialogs LICENSE README.md \
	&& install -d -m 700 /state/telegraf-victorialogs/dead-letters

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /root-fs/ /
# Volumes that are made for it get the owner and the mode of what is here.
COPY --from=build --chown=65532:65532 /state/ /var/lib/
ENV DEAD_LETTERS=/var/lib/telegraf-victorialogs/dead-letters
VOLUME /var/lib/telegraf-victorialogs
USER 65532:65532
# It writes below /var/lib/telegraf-victorialogs alone; run it with --read-only.
ENTRYPOINT ["/usr/bin/telegraf", "--strict-env-handling"]
CMD ["--config", "/etc/telegraf-victorialogs/telegraf.conf"]
