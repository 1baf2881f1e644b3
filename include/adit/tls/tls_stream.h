/* A client's TLS connection as a stream. */
#ifndef ADIT_TLS_STREAM_H
#define ADIT_TLS_STREAM_H

#include "adit/base/reason.h"
#include "adit/stream/stream.h"
#include "adit/tls/context.h"

/* Where one worker's TLS records gather before they go to the kernel in one send: room for what a relay writes at once
 * (tunnel.buffer's default) and the records' overhead. Empty between callbacks, so one serves all connections. */
enum { TLS_WIRE_BYTES = 288 * 1024 };
struct tls_wire {
	size_t used;
	unsigned char bytes[TLS_WIRE_BYTES];
};

/* REASON_OK: the stream may be used. HANDSHAKE_FAILED, CLIENT_GONE, NO_MEMORY, PLAIN_HTTP: it may only be closed, and
 * for PLAIN_HTTP be given a tls_stream_plain before. Called from the loop, once. */
typedef void tls_handshake_fn(void *ctx, enum reason verdict);

/* Takes over fd on success and starts the handshake as the server; closing the stream is legal at any time. The
 * deadline is the caller's. NULL: out of memory, fd stays the caller's. */
struct stream *tls_stream_accept(struct loop *loop, int fd, struct tls_context *context, struct tls_wire *wire,
	enum tls_http2 http2, unsigned linger_ms, tls_handshake_fn *done, void *ctx) ADIT_MUST_USE;

/* What the handshake agreed on; strings live as long as the stream. */
struct tls_stream_info {
	const char *version; /* "TLSv1.3" */
	const char *cipher; /* OpenSSL's name */
	const char *sni; /* NULL: none sent */
	struct slice alpn; /* empty: none agreed */
	bool resumed;
};
void tls_stream_info(const struct stream *s, struct tls_stream_info *out);
/* Why the handshake failed, in OpenSSL's words; "" when unknown. For the log. */
const char *tls_stream_error(const struct stream *s);

/* Bytes in the clear, for a client that speaks plain HTTP to the TLS port. */
void tls_stream_plain(struct stream *s, struct slice bytes);

#endif
