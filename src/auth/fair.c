/* Two rings in one another: networks take turns, and each network's hosts take turns at its turn.
 *
 * Whoever sends a thousand guesses from one address, or from all addresses of a /24, delays another network by one item
 * per round and no more. Finding the longest walks the networks; that happens only when the line is full, costs less
 * than the digest the caller has made by then, and is bounded by the line's length. */
#include "auth/fair_priv.h"

#include "adit/base/lru.h"
#include "adit/base/mem.h"

enum { FAIR_MAGIC = OBJ_MAGIC('f', 'a', 'i', 'r'), IPV4_IN_V6_BITS = 96 };

struct fair_net {
	TAILQ_ENTRY(fair_net) entry;
	TAILQ_HEAD(, fair_host) hosts; /* whose turn is next: first */
	size_t count;
	uint64_t pushed; /* number of the push that came here last */
};

struct fair_host {
	TAILQ_ENTRY(fair_host) entry;
	TAILQ_HEAD(fair_items, fair_item) items; /* oldest first */
	struct fair_net *net;
	size_t count;
	uint64_t pushed;
};

struct fair {
	uint32_t magic;
	TAILQ_HEAD(, fair_net) nets;
	struct lru *by_net, *by_host; /* prefix to fair_net, fair_host; bounded by the owner, so nothing is ever dropped */
	size_t count;
	uint64_t pushes;
};

struct fair *fair_new(void)
{
	struct fair *fair = mem_alloc(sizeof(*fair));

	if (!fair)
		return NULL;
	OBJ_INIT(fair, FAIR_MAGIC);
	TAILQ_INIT(&fair->nets);
	fair->by_net = lru_new(SIZE_MAX, sizeof(struct fair_net), NULL, NULL);
	fair->by_host = lru_new(SIZE_MAX, sizeof(struct fair_host), NULL, NULL);
	if (fair->by_net && fair->by_host)
		return fair;
	fair_free(fair);
	return NULL;
}

void fair_free(struct fair *fair)
{
	if (!fair)
		return;
	OBJ_CHECK(fair, FAIR_MAGIC);
	ADIT_ASSERT(fair->count == 0);
	lru_free(fair->by_net);
	lru_free(fair->by_host);
	OBJ_FINI(fair);
	mem_free(fair);
}

size_t fair_count(const struct fair *fair)
{
	OBJ_CHECK(fair, FAIR_MAGIC);
	return fair->count;
}

static struct cidr net_of(const struct cidr *host)
{
	struct cidr net = *host;

	net.bits = host->bits >= IPV4_IN_V6_BITS ? IPV4_IN_V6_BITS + 24 : 48;
	for (size_t i = net.bits / 8; i < sizeof(net.bytes); i++)
		net.bytes[i] = 0;
	return net;
}

/* The bytes of a struct cidr may end in padding; a key may not. */
struct prefix_key { uint8_t bytes[17]; };

static struct prefix_key key_of(const struct cidr *prefix)
{
	struct prefix_key key;

	memcpy(key.bytes, prefix->bytes, sizeof(prefix->bytes));
	key.bytes[16] = prefix->bits;
	return key;
}

static void drop_empty(struct fair *fair, struct fair_host *host)
{
	struct fair_net *net = host->net;

	if (host->count == 0) {
		TAILQ_REMOVE(&net->hosts, host, entry);
		lru_remove(fair->by_host, host);
	}
	if (net->count == 0) {
		TAILQ_REMOVE(&fair->nets, net, entry);
		lru_remove(fair->by_net, net);
	}
}

bool fair_push(struct fair *fair, struct fair_item *item, const struct cidr *host_prefix)
{
	struct cidr net_prefix = net_of(host_prefix);
	struct prefix_key net_key = key_of(&net_prefix), host_key = key_of(host_prefix);
	struct fair_host *host;
	struct fair_net *net;
	bool fresh;

	OBJ_CHECK(fair, FAIR_MAGIC);
	ADIT_ASSERT(!item->host);
	net = lru_put(fair->by_net, net_key.bytes, sizeof(net_key.bytes), &fresh);
	if (!net)
		return false;
	if (fresh) {
		TAILQ_INIT(&net->hosts);
		TAILQ_INSERT_TAIL(&fair->nets, net, entry);
	}
	host = lru_put(fair->by_host, host_key.bytes, sizeof(host_key.bytes), &fresh);
	if (!host) {
		if (net->count == 0) {
			TAILQ_REMOVE(&fair->nets, net, entry);
			lru_remove(fair->by_net, net);
		}
		return false;
	}
	if (fresh) {
		TAILQ_INIT(&host->items);
		host->net = net;
		TAILQ_INSERT_TAIL(&net->hosts, host, entry);
	}
	item->host = host;
	TAILQ_INSERT_TAIL(&host->items, item, entry);
	host->count++;
	net->count++;
	fair->count++;
	host->pushed = net->pushed = ++fair->pushes;
	return true;
}

void fair_remove(struct fair *fair, struct fair_item *item)
{
	struct fair_host *host = item->host;

	OBJ_CHECK(fair, FAIR_MAGIC);
	ADIT_ASSERT(host && host->count > 0 && host->net->count > 0 && fair->count > 0);
	TAILQ_REMOVE(&host->items, item, entry);
	item->host = NULL;
	host->count--;
	host->net->count--;
	fair->count--;
	drop_empty(fair, host);
}

struct fair_item *fair_pop(struct fair *fair)
{
	struct fair_net *net;
	struct fair_host *host;
	struct fair_item *item;

	OBJ_CHECK(fair, FAIR_MAGIC);
	net = TAILQ_FIRST(&fair->nets);
	if (!net)
		return NULL;
	host = TAILQ_FIRST(&net->hosts);
	item = TAILQ_FIRST(&host->items);
	/* their turn is over: to the end of both rings */
	TAILQ_REMOVE(&net->hosts, host, entry);
	TAILQ_INSERT_TAIL(&net->hosts, host, entry);
	TAILQ_REMOVE(&fair->nets, net, entry);
	TAILQ_INSERT_TAIL(&fair->nets, net, entry);
	fair_remove(fair, item);
	return item;
}

struct fair_item *fair_longest(struct fair *fair)
{
	struct fair_net *net, *longest_net;
	struct fair_host *host, *longest_host;

	OBJ_CHECK(fair, FAIR_MAGIC);
	longest_net = TAILQ_FIRST(&fair->nets);
	if (!longest_net)
		return NULL;
	TAILQ_FOREACH(net, &fair->nets, entry)
		if (net->count > longest_net->count || (net->count == longest_net->count && net->pushed > longest_net->pushed))
			longest_net = net;
	longest_host = TAILQ_FIRST(&longest_net->hosts);
	TAILQ_FOREACH(host, &longest_net->hosts, entry)
		if (host->count > longest_host->count ||
			(host->count == longest_host->count && host->pushed > longest_host->pushed))
			longest_host = host;
	return TAILQ_LAST(&longest_host->items, fair_items);
}
