/* A waiting line that is fair by client prefix: networks (IPv4 /24, IPv6 /48) take turns, and within a network its
 * hosts (/32, /64). Items are the caller's, embedded. Not thread-safe: the owner's lock. */
#ifndef ADIT_AUTH_FAIR_PRIV_H
#define ADIT_AUTH_FAIR_PRIV_H

#include "adit/base/addr.h"
#include "adit/base/obj.h"

#include <stdint.h>
#include <sys/queue.h>

struct fair;
struct fair_host;

struct fair_item {
	TAILQ_ENTRY(fair_item) entry;
	struct fair_host *host; /* NULL: not waiting */
};

struct fair *fair_new(void) ADIT_MUST_USE;
void fair_free(struct fair *fair); /* must be empty */

size_t fair_count(const struct fair *fair);
/* `host` is the client's address masked to /32 or /64. False: out of memory. */
bool fair_push(struct fair *fair, struct fair_item *item, const struct cidr *host) ADIT_MUST_USE;
struct fair_item *fair_pop(struct fair *fair); /* NULL when empty */
void fair_remove(struct fair *fair, struct fair_item *item);
/* The newest item of the longest host of the longest network; the one pushed to last when several are as long.
 * NULL when empty. Stays in the line. */
struct fair_item *fair_longest(struct fair *fair);

#endif
