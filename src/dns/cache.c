/* Answers until their time is up, the least recently asked name leaves first.
 *
 * An entry holds its addresses packed (16 bytes each, in an allocation of its own), for a dns_result would make every
 * name cost half a kilobyte where one or two addresses are the rule. */
#include "dns/dns_priv.h"

#include "adit/base/lru.h"
#include "adit/base/mem.h"

#define CACHE_MAGIC OBJ_MAGIC('d', 'n', 's', 'c')

struct dns_cache {
	uint32_t magic;
	struct lru *map; /* NULL: keeps nothing */
};

struct cache_entry {
	unsigned long long until_ms;
	enum reason verdict;
	unsigned count;
	uint8_t (*bytes)[16];
};

static void on_drop(void *value, void *ctx ADIT_UNUSED)
{
	struct cache_entry *entry = value;

	mem_free(entry->bytes);
}

struct dns_cache *dns_cache_new(size_t entries)
{
	struct dns_cache *cache = mem_alloc(sizeof(*cache));

	if (!cache)
		return NULL;
	OBJ_INIT(cache, CACHE_MAGIC);
	if (entries > 0) {
		cache->map = lru_new(entries, sizeof(struct cache_entry), on_drop, NULL);
		if (!cache->map) {
			dns_cache_free(cache);
			return NULL;
		}
	}
	return cache;
}

void dns_cache_free(struct dns_cache *cache)
{
	if (!cache)
		return;
	OBJ_CHECK(cache, CACHE_MAGIC);
	lru_free(cache->map);
	OBJ_FINI(cache);
	mem_free(cache);
}

void dns_cache_put(struct dns_cache *cache, const char *name, enum reason verdict, const struct dns_result *result,
	unsigned long long until_ms)
{
	uint8_t (*bytes)[16] = NULL;
	struct cache_entry *entry;

	OBJ_CHECK(cache, CACHE_MAGIC);
	if (!cache->map)
		return;
	if (result->count > 0) {
		bytes = mem_array(result->count, sizeof(*bytes));
		if (!bytes)
			return;
	}
	entry = lru_put(cache->map, name, strlen(name), NULL);
	if (!entry) {
		mem_free(bytes);
		return;
	}
	mem_free(entry->bytes);
	for (size_t i = 0; i < result->count; i++)
		addr_bytes(&result->addr[i], bytes[i]);
	*entry = (struct cache_entry){
		.until_ms = until_ms, .verdict = verdict, .count = (unsigned)result->count, .bytes = bytes
	};
}

bool dns_cache_get(struct dns_cache *cache, const char *name, unsigned long long now_ms, enum reason *verdict,
	struct dns_result *result)
{
	struct cache_entry *entry;

	OBJ_CHECK(cache, CACHE_MAGIC);
	entry = cache->map ? lru_get(cache->map, name, strlen(name)) : NULL;
	if (!entry)
		return false;
	if (entry->until_ms <= now_ms) {
		lru_remove(cache->map, entry);
		return false;
	}
	result->count = 0;
	for (unsigned i = 0; i < entry->count; i++)
		(void)dns_result_add_bytes(result, entry->bytes[i]);
	*verdict = entry->verdict;
	return true;
}
