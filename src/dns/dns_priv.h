/* The parts of the dns layer as they see each other: hosts, cache and channel know nothing of waiters, dns.c joins
 * them. */
#ifndef ADIT_SRC_DNS_PRIV_H
#define ADIT_SRC_DNS_PRIV_H

#include "adit/dns/dns.h"

/* --- result.c --- */

/* Adds the address unless it is there. False when the result is full. */
bool dns_result_add(struct dns_result *result, const struct addr *address);
/* The same for an address in the form of addr_bytes. */
bool dns_result_add_bytes(struct dns_result *result, const uint8_t bytes[static 16]);

/* --- hosts.c --- */

/* NULL: out of memory. */
struct dns_hosts *dns_hosts_parse(struct slice text) ADIT_MUST_USE;
/* True when the snapshot has the name; then result holds its addresses in file order. */
bool dns_hosts_find(const struct dns_hosts *hosts, const char *name, struct dns_result *result);

/* --- cache.c --- */

struct dns_cache;
/* entries 0: a cache that keeps nothing. NULL: out of memory. */
struct dns_cache *dns_cache_new(size_t entries) ADIT_MUST_USE;
void dns_cache_free(struct dns_cache *cache);
/* The verdict (OK, NAME_UNKNOWN or NAME_NO_ADDRESS) is valid before until_ms. Does nothing when memory is short. */
void dns_cache_put(struct dns_cache *cache, const char *name, enum reason verdict, const struct dns_result *result,
	unsigned long long until_ms);
/* False: not known, or no longer valid. */
bool dns_cache_get(struct dns_cache *cache, const char *name, unsigned long long now_ms, enum reason *verdict,
	struct dns_result *result);

/* --- channel.c: c-ares on a loop --- */

struct dns_channel;

/* One question about one family. The asker's memory; lives until fn is called, which happens exactly once, perhaps
 * inside dns_channel_ask or dns_channel_free. fn must not free the channel nor ask it again. */
struct dns_ask {
	void (*fn)(struct dns_ask *ask);
	struct dns_channel *channel;
	int family; /* AF_INET, AF_INET6 */
	bool pending;
	/* when fn is called: */
	enum reason verdict;
	struct dns_result result;
	unsigned long long ttl_ms; /* of a positive answer, the CNAMEs' included */
};

/* NULL: out of memory, or c-ares does not start. Reads /etc/resolv.conf. */
struct dns_channel *dns_channel_new(struct loop *loop, const struct conf *conf) ADIT_MUST_USE;
void dns_channel_free(struct dns_channel *channel); /* asks still pending are answered DNS_FAILED */
void dns_channel_ask(struct dns_channel *channel, const char *name, int family, struct dns_ask *ask);
bool dns_channel_is_busy(const struct dns_channel *channel);

#endif
