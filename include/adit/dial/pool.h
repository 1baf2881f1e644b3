/* Connections to targets that are idle between two forwarded requests; one pool for each worker.
 *
 * A connection belongs to the user whose request made it and to the host and port it was made for: what a target
 * believes of a connection (NTLM, for one) must never become another user's. Who takes one asks the policy again. */
#ifndef ADIT_DIAL_POOL_H
#define ADIT_DIAL_POOL_H

#include "adit/base/addr.h"
#include "adit/stream/stream.h"

struct pool;

struct pool_key {
	const char *user, *host; /* the host as authority.h spells it */
	uint16_t port;
};

struct pool_limits {
	unsigned connections; /* in all; beyond it the oldest is closed. 0: none is kept. */
	unsigned idle_ms;
};

enum { POOL_PER_KEY = 8 };

struct pool *pool_new(struct loop *loop) ADIT_MUST_USE; /* NULL: out of memory */
void pool_free(struct pool *pool); /* NULL is fine; while the loop lives */

/* Takes over a stream on which nothing is under way, with nothing unread and nothing queued. It is closed when its time
 * is up, when anything comes on it, when the pool is full or memory is short. Idle streams do not hold the loop. */
void pool_put(struct pool *pool, const struct pool_key *key, const struct pool_limits *limits, struct stream *stream,
	const struct addr *address, const struct addr *local);
/* The one that was used last, as far as can be known alive, attached to nobody; NULL: none. */
struct stream *pool_take(struct pool *pool, const struct pool_key *key, struct addr *address, struct addr *local);
size_t pool_count(const struct pool *pool);
/* Closes all, at once. */
void pool_empty(struct pool *pool);

#endif
