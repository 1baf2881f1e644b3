/* Bytes both ways between the client's stream and the target's, until both directions have ended.
 *
 * One flow per direction, the same code for both. A flow reads only while the far side has nothing queued, so at most
 * one read (relay_limits.buffer_bytes) waits per direction. A half-close travels: the end of one side becomes FIN on
 * the other after its last byte, while the other direction goes on. The streams may be messages (http/message.h): then
 * the ends are those of bodies. */
#ifndef ADIT_TUNNEL_RELAY_H
#define ADIT_TUNNEL_RELAY_H

#include "adit/base/reason.h"
#include "adit/stream/stream.h"

struct relay;

struct relay_limits {
	unsigned idle_ms, half_closed_ms, stall_ms, lifetime_ms; /* DEADLINE_OFF: none */
	char *buffer; /* the worker's, used within one callback */
	size_t buffer_bytes;
	bool exchange; /* one message each way: all is over once the one to the client is */
};

struct relay_count {
	unsigned long long up, down; /* application bytes read from the client, from the target */
	bool client_ended, client_truncated; /* the client's side was closed, and how */
};

/* Once, from the loop, never from inside relay_start: how it ended. Both streams are still open and the caller's to
 * close. */
typedef void relay_done_fn(void *ctx, enum reason reason);

/* Attaches to both streams. NULL: out of memory. */
struct relay *relay_start(struct loop *loop, struct stream *client, struct stream *target,
	const struct relay_limits *limits, relay_done_fn *done, void *ctx) ADIT_MUST_USE;
/* An exchange goes on as a tunnel, before any of its messages has ended. */
void relay_switch(struct relay *relay, unsigned half_closed_ms);
/* Nothing more goes to the target. */
void relay_stop_up(struct relay *relay);
/* When bytes moved last. */
unsigned long long relay_active_ms(const struct relay *relay);
void relay_count(const struct relay *relay, struct relay_count *out);
/* Stops moving bytes and frees; no done any more. Also the way to free after done. The streams are closed first: they
 * would tell the relay of their next event. */
void relay_free(struct relay *relay);

#endif
