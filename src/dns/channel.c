/* c-ares on an event loop: its sockets become events, its retries hang on one timer, its answers become reasons.
 *
 * What is hard is what c-ares 1.18 does unasked, read in its source:
 * - ares_getaddrinfo appends the search list in spite of ARES_FLAG_NOSEARCH, and reads the file that $HOSTALIASES names
 *   for names without a dot, unless the name ends with a dot: it does.
 * - Answers are sorted by connecting a UDP socket to each address, a hundred of them if so many came, and the order
 *   says nothing once it is cached: ARES_AI_NOSORT. The dialler puts the families in order.
 * - With both families in one request the last answer's status stands for the two, so that a dead server beside an
 *   empty answer looks like a name without an address: each family is asked for by itself.
 * - Servers cannot be changed while a query is out, and ares_cancel kills all of them: a channel is never changed, a
 *   new one takes its place.
 * - The time to the next retry is found by a walk over all queries, so it is not asked for at every packet: while a
 *   query is out the timer runs at least every TICK_MS. */
#define CARES_NO_DEPRECATED /* newer releases deprecate ares_set_servers_ports, older ones lack what replaces it */

#include "dns/dns_priv.h"

#include "adit/base/mem.h"

#include <ares.h>
#include <event2/event.h>
#include <netinet/tcp.h>
#include <pthread.h>

#define CHANNEL_MAGIC OBJ_MAGIC('d', 'n', 's', 'h')

enum {
	TICK_MS = 100,
	TRIES = 2,
	TRY_MOST_MS = 1500,
	TRY_LEAST_MS = 100,
	EDNS_BYTES = 1232, /* fits into one packet on any path */
	UDP_QUERIES_PER_PORT = 32,
};

struct channel_socket {
	TAILQ_ENTRY(channel_socket) entry;
	struct dns_channel *channel;
	struct event *event;
	int fd;
};

struct dns_channel {
	uint32_t magic;
	struct loop *loop;
	ares_channel ares;
	struct event *timer; /* libevent's own time also under a manual clock: c-ares reads the real one */
	TAILQ_HEAD(, channel_socket) sockets;
	unsigned pending;
};

/* --- the library --- */

static pthread_once_t library_once = PTHREAD_ONCE_INIT;
static int library_status;

/* Not thread-safe in 1.18, and never undone: channels of other threads may live. Our allocator is not handed over:
 * releases up to 1.34.5 were seen to use freed memory after an allocation that failed. */
static void library_start(void)
{
	library_status = ares_library_init(ARES_LIB_INIT_ALL);
}

/* --- sockets and time --- */

static void arm_timer(struct dns_channel *channel)
{
	struct timeval most = { .tv_usec = TICK_MS * 1000L }, next, *wait = ares_timeout(channel->ares, &most, &next);

	/* c-ares rounds down to ms and would find nothing due yet. */
	next = *wait;
	next.tv_usec += 1000;
	(void)evtimer_add(channel->timer, &next); /* fails only without memory, and then the next answer arms it */
}

static void process(struct dns_channel *channel, evutil_socket_t readable, evutil_socket_t writable)
{
	ares_process_fd(channel->ares, readable, writable);
	if (channel->pending > 0)
		return;
	evtimer_del(channel->timer);
	/* Newer releases close the socket of a query that timed out when they are called the next time. */
	ares_process_fd(channel->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

static void on_timer(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx)
{
	struct dns_channel *channel;

	OBJ_CAST(channel, ctx, CHANNEL_MAGIC);
	process(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	if (channel->pending > 0)
		arm_timer(channel);
}

static void on_socket(evutil_socket_t fd, short what, void *ctx)
{
	struct channel_socket *s = ctx;
	struct dns_channel *channel;

	OBJ_CAST(channel, s->channel, CHANNEL_MAGIC);
	/* May close the socket, and s with it. */
	process(channel, (what & EV_READ) ? fd : ARES_SOCKET_BAD, (what & EV_WRITE) ? fd : ARES_SOCKET_BAD);
	if (channel->pending > 0 && !evtimer_pending(channel->timer, NULL))
		arm_timer(channel);
}

static void socket_forget(struct channel_socket *s)
{
	TAILQ_REMOVE(&s->channel->sockets, s, entry);
	if (s->event)
		event_free(s->event);
	mem_free(s);
}

/* c-ares says what it waits for on a socket; nothing any more: it is about to close it. Without memory the socket stays
 * deaf and the query runs into its time-out. */
static void on_socket_state(void *ctx, ares_socket_t fd, int readable, int writable)
{
	struct dns_channel *channel;
	struct channel_socket *s;
	short what = (short)((readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));

	OBJ_CAST(channel, ctx, CHANNEL_MAGIC);
	TAILQ_FOREACH(s, &channel->sockets, entry)
		if (s->fd == fd)
			break;
	if (what == 0) {
		if (s)
			socket_forget(s);
		return;
	}
	if (!s) {
		s = mem_alloc(sizeof(*s));
		if (!s)
			return;
		s->channel = channel;
		s->fd = fd;
		TAILQ_INSERT_HEAD(&channel->sockets, s, entry);
	} else if (s->event) {
		event_free(s->event);
	}
	s->event = event_new(loop_base(channel->loop), fd, (short)(what | EV_PERSIST), on_socket, s);
	if (!s->event || event_add(s->event, NULL) != 0)
		socket_forget(s);
}

/* --- life --- */

/* All tries together stay below the caller's deadline; each further try waits twice as long. */
static int try_ms(const struct conf *conf, size_t servers)
{
	unsigned long long ms = (unsigned long long)conf->deadlines.resolve * 9 / 10 / (3 * (servers > 0 ? servers : 1));

	if (ms > TRY_MOST_MS)
		return TRY_MOST_MS;
	return ms < TRY_LEAST_MS ? TRY_LEAST_MS : (int)ms;
}

static bool channel_open(struct dns_channel *channel, const struct conf *conf, size_t servers)
{
	char lookups[] = "b"; /* DNS alone: the hosts file is ours */
	struct ares_options options = {
		.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES | ARES_FLAG_EDNS,
		.timeout = try_ms(conf, servers),
		.tries = TRIES,
		.lookups = lookups,
		.ednspsz = EDNS_BYTES,
		.sock_state_cb = on_socket_state,
		.sock_state_cb_data = channel,
	};
	int mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_EDNSPSZ |
		ARES_OPT_SOCK_STATE_CB;

#ifdef ARES_OPT_QUERY_CACHE
	options.qcache_max_ttl = 0; /* one cache is enough, and ours can be emptied */
	mask |= ARES_OPT_QUERY_CACHE;
#endif
#ifdef ARES_OPT_UDP_MAX_QUERIES
	options.udp_max_queries = UDP_QUERIES_PER_PORT; /* a source port that stays helps a forger */
	mask |= ARES_OPT_UDP_MAX_QUERIES;
#endif
	if (ares_init_options(&channel->ares, &options, mask) == ARES_SUCCESS)
		return true;
	channel->ares = NULL;
	return false;
}

static bool set_servers(struct dns_channel *channel, const struct conf *conf)
{
	size_t n = conf->dns.server_count;
	struct ares_addr_port_node *nodes = mem_array(n, sizeof(*nodes));
	int status;

	if (!nodes)
		return false;
	for (size_t i = 0; i < n; i++) {
		const struct addr *server = &conf->dns.servers[i];

		nodes[i].next = i + 1 < n ? &nodes[i + 1] : NULL;
		nodes[i].family = server->sa.sa_family;
		if (server->sa.sa_family == AF_INET)
			nodes[i].addr.addr4 = server->in.sin_addr;
		else
			memcpy(&nodes[i].addr.addr6, &server->in6.sin6_addr, sizeof(nodes[i].addr.addr6));
		nodes[i].udp_port = nodes[i].tcp_port = addr_port(server) ? addr_port(server) : 53;
	}
	status = ares_set_servers_ports(channel->ares, nodes);
	mem_free(nodes);
	return status == ARES_SUCCESS;
}

/* How many servers /etc/resolv.conf gave. */
static size_t count_servers(const struct dns_channel *channel)
{
	struct ares_addr_port_node *servers = NULL;
	size_t n = 0;

	if (ares_get_servers_ports(channel->ares, &servers) != ARES_SUCCESS)
		return 0;
	for (const struct ares_addr_port_node *s = servers; s; s = s->next)
		n++;
	ares_free_data(servers);
	return n;
}

struct dns_channel *dns_channel_new(struct loop *loop, const struct conf *conf)
{
	struct dns_channel *channel = NULL;
	size_t servers = conf->dns.server_count;

	pthread_once(&library_once, library_start);
	if (library_status != ARES_SUCCESS)
		return NULL;
	channel = mem_alloc(sizeof(*channel));
	if (!channel)
		return NULL;
	OBJ_INIT(channel, CHANNEL_MAGIC);
	channel->loop = loop;
	TAILQ_INIT(&channel->sockets);
	channel->timer = evtimer_new(loop_base(loop), on_timer, channel);
	if (!channel->timer || !channel_open(channel, conf, servers))
		goto fail;
	if (servers > 0)
		return set_servers(channel, conf) ? channel : (dns_channel_free(channel), NULL);
	/* The time of a try follows from the number of servers, which only an open channel knows. */
	servers = count_servers(channel);
	if (servers > 1) {
		ares_destroy(channel->ares);
		if (!channel_open(channel, conf, servers))
			goto fail;
	}
	return channel;
fail:
	dns_channel_free(channel);
	return NULL;
}

void dns_channel_free(struct dns_channel *channel)
{
	if (!channel)
		return;
	OBJ_CHECK(channel, CHANNEL_MAGIC);
	if (channel->ares)
		ares_destroy(channel->ares);
	ADIT_ASSERT(channel->pending == 0);
	while (!TAILQ_EMPTY(&channel->sockets))
		socket_forget(TAILQ_FIRST(&channel->sockets));
	if (channel->timer)
		event_free(channel->timer);
	OBJ_FINI(channel);
	mem_free(channel);
}

bool dns_channel_is_busy(const struct dns_channel *channel)
{
	return channel->pending > 0;
}

/* --- asking --- */

static enum reason verdict_of(int status)
{
	switch (status) {
	case ARES_SUCCESS:
		return REASON_OK;
	case ARES_ENOTFOUND:
		return REASON_NAME_UNKNOWN;
	case ARES_ENODATA:
		return REASON_NAME_NO_ADDRESS;
	case ARES_ETIMEOUT:
		return REASON_DNS_TIMEOUT;
	case ARES_ENOMEM:
		return REASON_NO_MEMORY;
	default:
		return REASON_DNS_FAILED;
	}
}

static void lower_ttl(struct dns_ask *ask, int ttl_s)
{
	unsigned long long ms = ttl_s > 0 ? (unsigned long long)ttl_s * 1000 : 0; /* negative: RFC 2181 8, as zero */

	if (ms < ask->ttl_ms)
		ask->ttl_ms = ms;
}

static void take_addresses(struct dns_ask *ask, const struct ares_addrinfo *info)
{
	for (const struct ares_addrinfo_cname *c = info->cnames; c; c = c->next)
		lower_ttl(ask, c->ttl);
	for (const struct ares_addrinfo_node *n = info->nodes; n; n = n->ai_next) {
		struct addr address;

		if (n->ai_family != ask->family || !addr_from_sockaddr(&address, n->ai_addr, (socklen_t)n->ai_addrlen))
			continue;
		lower_ttl(ask, n->ai_ttl);
		if (!dns_result_add(&ask->result, &address))
			break;
	}
}

static void on_answer(void *ctx, int status, int timeouts ADIT_UNUSED, struct ares_addrinfo *info)
{
	struct dns_ask *ask = ctx;
	struct dns_channel *channel;

	OBJ_CAST(channel, ask->channel, CHANNEL_MAGIC);
	ADIT_ASSERT(ask->pending && channel->pending > 0);
	ask->verdict = verdict_of(status);
	if (status == ARES_SUCCESS && info) {
		take_addresses(ask, info);
		if (ask->result.count == 0)
			ask->verdict = REASON_NAME_NO_ADDRESS;
	}
	if (info)
		ares_freeaddrinfo(info);
	channel->pending--;
	ask->pending = false;
	ask->fn(ask);
}

void dns_channel_ask(struct dns_channel *channel, const char *name, int family, struct dns_ask *ask)
{
	struct ares_addrinfo_hints hints = { .ai_flags = ARES_AI_NOSORT, .ai_family = family };
	char dotted[HOST_TEXT_MAX + 2];
	size_t n = strlen(name);

	OBJ_CHECK(channel, CHANNEL_MAGIC);
	ADIT_ASSERT(n > 0 && n <= HOST_TEXT_MAX);
	memcpy(dotted, name, n);
	memcpy(dotted + n, ".", 2);
	ask->channel = channel;
	ask->family = family;
	ask->pending = true;
	ask->result.count = 0;
	ask->ttl_ms = ~0ULL;
	channel->pending++;
	ares_getaddrinfo(channel->ares, dotted, NULL, &hints, on_answer, ask);
	if (channel->pending > 0 && !evtimer_pending(channel->timer, NULL))
		arm_timer(channel);
}
