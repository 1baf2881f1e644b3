/* The resolver of one loop: hosts, then cache, then one query per name for all who ask for it.
 *
 *   dns --owns--> lookup (one name under way: two asks, one per family) <--joined by-- query (one waiter each)
 *
 * A waiter may leave at any time; the lookup never does, for c-ares cannot end a single query: it finishes as an
 * orphan and fills the cache. What is hard is the end of a lookup: c-ares answers inside its own frames, where neither
 * it nor a waiter may be called, so a settled lookup is posted and its waiters hear of it from the run queue; and a
 * waiter that is called may cancel any other one, or ask again. */
#include "dns/dns_priv.h"

#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "adit/log/log.h"

#define DNS_MAGIC OBJ_MAGIC('d', 'n', 's', '1')
#define LOOKUP_MAGIC OBJ_MAGIC('d', 'n', 's', 'l')
#define QUERY_MAGIC OBJ_MAGIC('d', 'n', 's', 'q')

/* IPv4 addresses are there and the IPv6 answer is late: go on without it (RFC 8305 3). Longer than the 50 ms there,
 * because addresses that come later are not added to a dial under way. Never the other way round: an IPv6 address alone
 * is of no use on many hosts. */
enum { RESOLUTION_DELAY_MS = 500 };

TAILQ_HEAD(query_list, dns_query);
TAILQ_HEAD(channel_list, retired);

struct lookup {
	uint32_t magic;
	TAILQ_ENTRY(lookup) entry; /* in dns->lookups until settled */
	struct dns *dns;
	struct dns_ask v6, v4;
	unsigned open; /* asks not yet answered */
	bool stale; /* from before a reconfiguration: for its waiters only */
	bool settled; /* verdict and result are final */
	bool early; /* the waiters got, and who joins gets, IPv4 alone */
	bool delivering;
	enum reason verdict;
	struct dns_result result;
	struct query_list queries;
	struct deadline delay;
	struct loop_task deliver;
	char name[HOST_TEXT_MAX + 1];
};

struct dns_query {
	uint32_t magic;
	TAILQ_ENTRY(dns_query) entry;
	struct lookup *lookup;
	dns_done_fn *done;
	void *ctx;
};

/* A channel with old servers whose queries are still out. */
struct retired {
	TAILQ_ENTRY(retired) entry;
	struct dns_channel *channel;
};

struct dns {
	uint32_t magic;
	struct loop *loop;
	struct dns_hosts *hosts;
	struct dns_cache *cache;
	struct dns_channel *channel;
	struct channel_list retired;
	struct loop_task sweep;
	struct lru *by_name; /* struct lookup *: those that may be joined */
	TAILQ_HEAD(, lookup) lookups; /* all that are out, stale and orphaned ones too */
	size_t lookup_count, waiting;
	unsigned most_lookups, negative_ms, ttl_max_ms;
};

/* --- the end of a lookup --- */

static void lookup_free_if_done(struct lookup *lookup)
{
	if (!lookup->settled || lookup->delivering || !TAILQ_EMPTY(&lookup->queries))
		return;
	loop_unpost(lookup->dns->loop, &lookup->deliver);
	deadline_fini(&lookup->delay);
	OBJ_FINI(lookup);
	mem_free(lookup);
}

static void tell_waiters(struct lookup *lookup, enum reason verdict)
{
	struct dns_query *query;

	lookup->delivering = true;
	while ((query = TAILQ_FIRST(&lookup->queries)) != NULL) {
		dns_done_fn *done = query->done;
		void *ctx = query->ctx;

		TAILQ_REMOVE(&lookup->queries, query, entry);
		lookup->dns->waiting--;
		OBJ_FINI(query);
		mem_free(query);
		done(ctx, verdict, &lookup->result);
	}
	lookup->delivering = false;
	lookup_free_if_done(lookup);
}

static void on_deliver(void *ctx)
{
	struct lookup *lookup;

	OBJ_CAST(lookup, ctx, LOOKUP_MAGIC);
	tell_waiters(lookup, lookup->verdict);
}

static void on_delay(void *ctx)
{
	struct lookup *lookup;

	OBJ_CAST(lookup, ctx, LOOKUP_MAGIC);
	lookup->early = true;
	lookup->result = lookup->v4.result;
	tell_waiters(lookup, REASON_OK);
}

/* An address from either family is success. Otherwise "the name does not exist" or "has no address" must be what both
 * servers' answers say; one that failed leaves it open. */
static enum reason join_verdicts(enum reason a, enum reason b)
{
	static const enum reason order[] = { REASON_OK, REASON_NO_MEMORY, REASON_DNS_FAILED, REASON_DNS_TIMEOUT,
		REASON_NAME_NO_ADDRESS };

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if (a == order[i] || b == order[i])
			return order[i];
	return REASON_NAME_UNKNOWN;
}

/* Both families get their share of the bounded result. */
static void join_results(struct dns_result *out, const struct dns_result *v6, const struct dns_result *v4)
{
	out->count = 0;
	for (size_t i = 0; i < DNS_ADDRESSES_MAX; i++) {
		if (i < v6->count)
			(void)dns_result_add(out, &v6->addr[i]);
		if (i < v4->count)
			(void)dns_result_add(out, &v4->addr[i]);
	}
}

static bool is_answer(enum reason verdict)
{
	return verdict == REASON_OK || verdict == REASON_NAME_UNKNOWN || verdict == REASON_NAME_NO_ADDRESS;
}

static void remember(struct lookup *lookup)
{
	struct dns *dns = lookup->dns;
	unsigned long long now_ms = loop_now_ms(dns->loop), ms = dns->ttl_max_ms;

	if (!is_answer(lookup->verdict))
		return;
	if (lookup->verdict != REASON_OK)
		ms = dns->negative_ms;
	if (lookup->v6.verdict == REASON_OK && lookup->v6.ttl_ms < ms)
		ms = lookup->v6.ttl_ms;
	if (lookup->v4.verdict == REASON_OK && lookup->v4.ttl_ms < ms)
		ms = lookup->v4.ttl_ms;
	/* One family is missing only because its query failed: ask again soon. */
	if ((!is_answer(lookup->v6.verdict) || !is_answer(lookup->v4.verdict)) && dns->negative_ms < ms)
		ms = dns->negative_ms;
	if (ms > 0)
		dns_cache_put(dns->cache, lookup->name, lookup->verdict, &lookup->result, now_ms + ms);
}

static void lookup_settle(struct lookup *lookup)
{
	struct dns *dns = lookup->dns;

	lookup->verdict = join_verdicts(lookup->v6.verdict, lookup->v4.verdict);
	join_results(&lookup->result, &lookup->v6.result, &lookup->v4.result);
	lookup->settled = true;
	deadline_clear(&lookup->delay);
	TAILQ_REMOVE(&dns->lookups, lookup, entry);
	dns->lookup_count--;
	if (!lookup->stale) {
		remember(lookup);
		lru_remove(dns->by_name, lru_peek(dns->by_name, lookup->name, strlen(lookup->name)));
	}
	if (!TAILQ_EMPTY(&dns->retired))
		loop_post(dns->loop, &dns->sweep);
	if (!TAILQ_EMPTY(&lookup->queries))
		loop_post(dns->loop, &lookup->deliver);
	lookup_free_if_done(lookup);
}

static void lookup_answered(struct lookup *lookup)
{
	OBJ_CHECK(lookup, LOOKUP_MAGIC);
	ADIT_ASSERT(lookup->open > 0);
	if (--lookup->open == 0)
		lookup_settle(lookup);
	else if (!lookup->v4.pending && lookup->v4.verdict == REASON_OK)
		(void)deadline_set(&lookup->delay, RESOLUTION_DELAY_MS); /* no memory: wait for both */
}

static void on_v6(struct dns_ask *ask)
{
	lookup_answered(OBJ_OF(ask, struct lookup, v6));
}

static void on_v4(struct dns_ask *ask)
{
	lookup_answered(OBJ_OF(ask, struct lookup, v4));
}

/* --- asking --- */

static struct lookup *lookup_new(struct dns *dns, const char *name)
{
	struct lookup *lookup = mem_alloc(sizeof(*lookup)), **slot;
	size_t n = strlen(name);

	if (!lookup)
		return NULL;
	slot = lru_put(dns->by_name, name, n, NULL);
	if (!slot) {
		mem_free(lookup);
		return NULL;
	}
	*slot = lookup;
	OBJ_INIT(lookup, LOOKUP_MAGIC);
	lookup->dns = dns;
	memcpy(lookup->name, name, n);
	TAILQ_INIT(&lookup->queries);
	deadline_init(&lookup->delay, dns->loop, on_delay, lookup);
	loop_task_init(&lookup->deliver, on_deliver, lookup);
	TAILQ_INSERT_TAIL(&dns->lookups, lookup, entry);
	dns->lookup_count++;
	return lookup;
}

/* May settle the lookup at once (no server can be reached); its waiter is there already and hears of it later. */
static void lookup_start(struct lookup *lookup)
{
	struct dns_channel *channel = lookup->dns->channel;

	lookup->v6.fn = on_v6;
	lookup->v4.fn = on_v4;
	lookup->v6.pending = lookup->v4.pending = true;
	lookup->open = 2;
	dns_channel_ask(channel, lookup->name, AF_INET6, &lookup->v6);
	dns_channel_ask(channel, lookup->name, AF_INET, &lookup->v4);
}

static void localhost(struct dns_result *result)
{
	static const uint8_t v6[16] = { [15] = 1 }, v4[16] = { [10] = 0xff, [11] = 0xff, 127, 0, 0, 1 };

	result->count = 0;
	(void)dns_result_add_bytes(result, v6);
	(void)dns_result_add_bytes(result, v4);
}

static bool is_localhost(struct slice name)
{
	return slice_eq(name, slice_of("localhost")) || slice_ends_with(name, slice_of(".localhost"));
}

/* True when no query is needed. */
static bool known(struct dns *dns, const char *name, enum reason *verdict, struct dns_result *result)
{
	*verdict = REASON_OK;
	if (dns->hosts && dns_hosts_find(dns->hosts, name, result))
		return true;
	if (is_localhost(slice_of(name))) { /* RFC 6761 6.3: never a question to a server */
		localhost(result);
		return true;
	}
	return dns_cache_get(dns->cache, name, loop_now_ms(dns->loop), verdict, result);
}

enum reason dns_resolve(struct dns *dns, const char *name, dns_done_fn *done, void *ctx, struct dns_result *result,
	struct dns_query **out)
{
	struct dns_query *query;
	struct lookup *lookup, **joined;
	enum reason verdict;
	size_t n = strlen(name);

	OBJ_CHECK(dns, DNS_MAGIC);
	ADIT_ASSERT(n > 0 && n <= HOST_TEXT_MAX);
	*out = NULL;
	result->count = 0;
	if (known(dns, name, &verdict, result))
		return verdict;
	joined = lru_get(dns->by_name, name, n);
	lookup = joined ? *joined : NULL;
	if (lookup && lookup->early) {
		*result = lookup->result;
		return REASON_OK;
	}
	if (!lookup && dns->lookup_count >= dns->most_lookups)
		return REASON_DNS_BUSY;
	query = mem_alloc(sizeof(*query));
	if (!query)
		return REASON_NO_MEMORY;
	if (!lookup) {
		lookup = lookup_new(dns, name);
		if (!lookup) {
			mem_free(query);
			return REASON_NO_MEMORY;
		}
	}
	OBJ_INIT(query, QUERY_MAGIC);
	query->lookup = lookup;
	query->done = done;
	query->ctx = ctx;
	TAILQ_INSERT_TAIL(&lookup->queries, query, entry);
	dns->waiting++;
	*out = query;
	if (!joined)
		lookup_start(lookup);
	return REASON_OK;
}

void dns_cancel(struct dns_query *query)
{
	struct lookup *lookup;

	OBJ_CHECK(query, QUERY_MAGIC);
	lookup = query->lookup;
	OBJ_CHECK(lookup, LOOKUP_MAGIC);
	TAILQ_REMOVE(&lookup->queries, query, entry);
	lookup->dns->waiting--;
	OBJ_FINI(query);
	mem_free(query);
	lookup_free_if_done(lookup);
}

/* --- life --- */

static void on_sweep(void *ctx)
{
	struct dns *dns;
	struct retired *r, *next;

	OBJ_CAST(dns, ctx, DNS_MAGIC);
	for (r = TAILQ_FIRST(&dns->retired); r; r = next) {
		next = TAILQ_NEXT(r, entry);
		if (dns_channel_is_busy(r->channel))
			continue;
		TAILQ_REMOVE(&dns->retired, r, entry);
		dns_channel_free(r->channel);
		mem_free(r);
	}
}

static void take_settings(struct dns *dns, const struct conf *conf)
{
	dns->most_lookups = conf->dns.queries;
	dns->negative_ms = conf->dns.negative_ms;
	dns->ttl_max_ms = conf->dns.ttl_max_ms;
}

struct dns *dns_new(struct loop *loop, const struct conf *conf, struct dns_hosts *hosts)
{
	struct dns *dns = mem_alloc(sizeof(*dns));

	if (!dns) {
		dns_hosts_unref(hosts);
		return NULL;
	}
	OBJ_INIT(dns, DNS_MAGIC);
	dns->loop = loop;
	dns->hosts = hosts;
	TAILQ_INIT(&dns->retired);
	TAILQ_INIT(&dns->lookups);
	loop_task_init(&dns->sweep, on_sweep, dns);
	take_settings(dns, conf);
	dns->cache = dns_cache_new(conf->dns.cache_entries);
	dns->by_name = lru_new(conf->dns.queries, sizeof(struct lookup *), NULL, NULL);
	dns->channel = dns_channel_new(loop, conf);
	if (dns->cache && dns->by_name && dns->channel)
		return dns;
	dns_free(dns);
	return NULL;
}

void dns_free(struct dns *dns)
{
	struct retired *r;

	if (!dns)
		return;
	OBJ_CHECK(dns, DNS_MAGIC);
	ADIT_ASSERT(dns->waiting == 0);
	/* Orphans end here, each freeing itself. */
	dns_channel_free(dns->channel);
	while ((r = TAILQ_FIRST(&dns->retired)) != NULL) {
		TAILQ_REMOVE(&dns->retired, r, entry);
		dns_channel_free(r->channel);
		mem_free(r);
	}
	ADIT_ASSERT(TAILQ_EMPTY(&dns->lookups));
	loop_unpost(dns->loop, &dns->sweep);
	lru_free(dns->by_name);
	dns_cache_free(dns->cache);
	dns_hosts_unref(dns->hosts);
	OBJ_FINI(dns);
	mem_free(dns);
}

/* From here on nobody joins these, and what they find is not kept: it is the old servers' word. */
static void let_go_of_lookups(struct dns *dns)
{
	struct lookup *lookup;
	void *slot;

	TAILQ_FOREACH(lookup, &dns->lookups, entry)
		lookup->stale = true;
	while ((slot = lru_oldest(dns->by_name)) != NULL)
		lru_remove(dns->by_name, slot);
}

bool dns_reconfigure(struct dns *dns, const struct conf *conf, struct dns_hosts *hosts)
{
	struct dns_cache *cache = dns_cache_new(conf->dns.cache_entries);
	struct lru *by_name = lru_new(conf->dns.queries, sizeof(struct lookup *), NULL, NULL);
	struct retired *retired = mem_alloc(sizeof(*retired));
	struct dns_channel *channel;

	OBJ_CHECK(dns, DNS_MAGIC);
	channel = dns_channel_new(dns->loop, conf);
	if (hosts) {
		dns_hosts_unref(dns->hosts);
		dns->hosts = hosts;
	}
	if (!cache || !by_name || !channel || !retired) {
		mem_free(retired);
		dns_channel_free(channel);
		lru_free(by_name);
		dns_cache_free(cache);
		return false;
	}
	let_go_of_lookups(dns);
	dns_cache_free(dns->cache);
	dns->cache = cache;
	lru_free(dns->by_name);
	dns->by_name = by_name;
	retired->channel = dns->channel;
	TAILQ_INSERT_TAIL(&dns->retired, retired, entry);
	loop_post(dns->loop, &dns->sweep); /* not here: a waiter's done may have called us out of a lookup */
	dns->channel = channel;
	take_settings(dns, conf);
	return true;
}
