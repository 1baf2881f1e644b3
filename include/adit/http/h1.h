/* The life of one HTTP/1 connection: head, request, answer, next head; or a tunnel, which is its last request. */
#ifndef ADIT_HTTP_H1_H
#define ADIT_HTTP_H1_H

#include "adit/conf/conf.h"
#include "adit/http/request.h"

struct h1;

/* Reads requests from `stream` (attached by this call) and closes it in the end; free after its closed callback.
 * `client` and `handler` must outlive it; takes a reference to conf. NULL: out of memory, the stream is still the
 * caller's. */
struct h1 *h1_start(struct loop *loop, struct stream *stream, const struct client *client, struct conf *conf,
	const struct http_handler *handler, void *handler_ctx) ADIT_MUST_USE;
void h1_free(struct h1 *h);

/* Ends the connection, whatever it is at: an idle one at once, a request with `reason`, a tunnel too. */
void h1_abort(struct h1 *h, enum reason reason);
/* No further request is read; what is under way goes on. */
void h1_drain(struct h1 *h);

#endif
