/* A bounded map from a byte string to a fixed-size value that drops the least recently used entry when full.
 * One mechanism for every cache and per-client table of the proxy: verdicts, throttle budgets, names, prefixes,
 * open audit files. Keys may come from strangers, so the hash is SipHash under a key born at start-up.
 * Not thread-safe: one owner, or the owner's lock. */
#ifndef ADIT_BASE_LRU_H
#define ADIT_BASE_LRU_H

#include "adit/base/obj.h"
#include <stdbool.h>

struct lru;

/* Called for every entry that leaves: dropped, removed, or at lru_free. Must not call back into the map. */
typedef void lru_drop_fn(void *value, void *ctx);

/* At most max entries of value_size bytes. NULL when out of memory. */
struct lru *lru_new(size_t max, size_t value_size, lru_drop_fn *drop, void *ctx) ADIT_MUST_USE;
void lru_free(struct lru *map); /* NULL is fine */

size_t lru_count(const struct lru *map);

/* The value, made the most recently used; NULL when absent. Valid until it is removed or dropped. */
void *lru_get(struct lru *map, const void *key, size_t key_size);
/* The value, and its place kept: for looks that must not keep an entry alive. */
void *lru_peek(struct lru *map, const void *key, size_t key_size);
/* The present value, or a new zeroed one (then *fresh is true); drops the oldest when full.
 * NULL only when out of memory. fresh may be NULL. */
void *lru_put(struct lru *map, const void *key, size_t key_size, bool *fresh) ADIT_MUST_USE;
/* Removes the entry of a value got from this map (calls drop). */
void lru_remove(struct lru *map, void *value);
/* The key of a value got from this map. */
const void *lru_key(const void *value, size_t *key_size);
/* Least recently used value, NULL when empty. To walk: lru_newer. Who removes the value at hand gets its successor
 * first. */
void *lru_oldest(struct lru *map);
void *lru_newer(struct lru *map, void *value);

/* SipHash-2-4 under the process's own key: for spreading over shards and for fair queues. */
unsigned long long lru_hash(const void *key, size_t key_size);

#endif
