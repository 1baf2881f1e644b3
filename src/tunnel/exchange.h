/* One forwarded request and its response. */
#ifndef ADIT_SRC_TUNNEL_EXCHANGE_H
#define ADIT_SRC_TUNNEL_EXCHANGE_H

#include "adit/http/request.h"
#include "adit/tunnel/relay.h"

struct exchange;

struct exchange_limits {
	struct relay_limits relay; /* as for a tunnel */
	unsigned response_ms; /* without any byte until the response's head; DEADLINE_OFF: none */
	struct head_limits head; /* of the response */
};

/* Once, from the loop: REASON_OK when the response has left towards the client, else why it did not. */
typedef void exchange_done_fn(void *ctx, enum reason reason);

/* Sends r->forward over `target`, a stream to the target that nobody is attached to, and joins the bodies. The client's
 * stream (request_exchange) and the request stay the caller's. NULL: out of memory, `target` is the caller's then. */
struct exchange *exchange_start(struct loop *loop, struct request *r, struct stream *client, struct stream *target,
	const struct exchange_limits *limits, exchange_done_fn *done, void *ctx) ADIT_MUST_USE;

/* The status that the client got; 0: none yet. */
int exchange_status(const struct exchange *x);
/* No byte of a response has come, and none has been given to the client. */
bool exchange_is_untouched(const struct exchange *x);
/* Neither a response nor half of one has gone to the client, and it is there: it can still be refused. */
bool exchange_can_refuse(const struct exchange *x);
void exchange_count(const struct exchange *x, struct relay_count *out);
/* Frees; no done any more. The stream to the target when it can carry another request, else NULL: it was closed. The
 * client's stream is the caller's to close, before anything else happens on the loop. */
struct stream *exchange_end(struct exchange *x, enum reason reason);

#endif
