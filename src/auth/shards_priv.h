/* A bounded map from a 64-bit hash to a value, in shards with a lock each. Between lock and unlock the value may be
 * used. */
#ifndef ADIT_AUTH_SHARDS_PRIV_H
#define ADIT_AUTH_SHARDS_PRIV_H

#include "adit/base/addr.h"
#include "adit/base/lru.h"

#include <pthread.h>
#include <stdint.h>

enum { SHARDS = 16 };

struct shards {
	struct {
		pthread_mutex_t lock;
		struct lru *map;
	} shard[SHARDS];
};

bool shards_init(struct shards *s, size_t entries, size_t value_size) ADIT_MUST_USE;
void shards_fini(struct shards *s); /* also after a failed init, and of a zeroed one */

/* The hash of (prefix, user); either may be left out by NULL, p = NULL. */
uint64_t shards_hash(const struct cidr *prefix, struct slice user);

/* Locks the hash's shard in any case; NULL when absent, or out of memory. */
void *shards_lock_get(struct shards *s, uint64_t hash);
void *shards_lock_put(struct shards *s, uint64_t hash);
void shards_unlock(struct shards *s, uint64_t hash);

#endif
