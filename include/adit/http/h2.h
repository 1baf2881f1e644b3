/* The life of one HTTP/2 connection (RFC 9113): every stream becomes a request, as if it had come by HTTP/1.1, and
 * every accepted one a struct stream. nghttp2 does frames and HPACK; windows, shares, budgets and ends are decided
 * here. */
#ifndef ADIT_HTTP_H2_H
#define ADIT_HTTP_H2_H

#include "adit/conf/conf.h"
#include "adit/http/request.h"

struct h2;

/* Reads frames from `stream` (attached by this call, positioned at the client's preface) and closes it in the end, when
 * no request and no tunnel is left; free after its closed callback. Nothing is sent before the client's preface is
 * complete. `client`, `handler` and `buffer` (used within one callback) must outlive it; takes a reference to conf.
 * NULL: out of memory, the stream is still the caller's. */
struct h2 *h2_start(struct loop *loop, struct stream *stream, const struct client *client, struct conf *conf,
	const struct http_handler *handler, void *handler_ctx, char *buffer, size_t buffer_bytes) ADIT_MUST_USE;
void h2_free(struct h2 *h);
/* Whether a request has ever begun. */
bool h2_was_used(const struct h2 *h);

/* Ends the connection: requests and tunnels with `reason`. */
void h2_abort(struct h2 *h, enum reason reason);
/* GOAWAY in two steps; no new request; what runs goes on. */
void h2_drain(struct h2 *h);

enum { H2_WINDOW_FIRST = 65536 }; /* what a stream's client may send at first; windows grow as http2.window has room */

/* What the first bytes after ALPN h2 say (Go agrees on h2 and then speaks HTTP/1.1). */
enum h2_preface { H2_PREFACE_WAIT, H2_PREFACE_H2, H2_PREFACE_H1, H2_PREFACE_BAD };
enum { H2_PREFACE_BYTES = 24 };
enum h2_preface h2_preface_judge(const char *bytes, size_t n);

#endif
