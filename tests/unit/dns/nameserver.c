/* Its memory is not the product's (calloc, not mem_alloc): a fault that a test sets must not hit the server. */
#include "unit/dns/nameserver.h"

#include "adit/base/obj.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/queue.h>
#include <unistd.h>

enum { TYPE_A = 1, TYPE_CNAME = 5, TYPE_AAAA = 28, FORMERR = 1, SERVFAIL = 2, NXDOMAIN = 3, MESSAGE_MAX = 16384 };

struct client { /* where an answer goes: a TCP connection, or a UDP address */
	struct nameserver *ns;
	TAILQ_ENTRY(client) entry;
	struct event *event;
	int fd;
	uint8_t buf[1024];
	size_t n;
};

struct question {
	struct sockaddr_storage from;
	socklen_t from_len;
	struct client *tcp; /* NULL: UDP */
	uint8_t bytes[1024];
	size_t n, end; /* end: behind the question section */
	char name[256];
	unsigned type;
	bool edns;
};

struct held {
	TAILQ_ENTRY(held) entry;
	struct question q;
	struct ns_set set;
};

struct nameserver {
	struct event_base *base;
	const struct ns_zone *zones;
	int udp, tcp;
	struct event *udp_event, *tcp_event;
	TAILQ_HEAD(, client) clients;
	TAILQ_HEAD(, held) held;
	unsigned udp_count, tcp_count, held_count;
	char last_name[256];
};

struct message {
	uint8_t bytes[MESSAGE_MAX];
	size_t n;
};

static void put(struct message *m, const void *p, size_t n)
{
	ADIT_ASSERT(m->n + n <= sizeof(m->bytes));
	memcpy(m->bytes + m->n, p, n);
	m->n += n;
}

static void put16(struct message *m, unsigned v)
{
	put(m, (uint8_t[]){ (uint8_t)(v >> 8), (uint8_t)v }, 2);
}

static void put_name(struct message *m, const char *name)
{
	while (*name) {
		size_t n = strcspn(name, ".");
		uint8_t label = (uint8_t)n;

		put(m, &label, 1);
		put(m, name, n);
		name += n;
		if (*name == '.')
			name++;
	}
	put(m, "", 1);
}

static void put_record(struct message *m, const char *owner, unsigned type, unsigned ttl_s, const void *data, size_t n)
{
	put_name(m, owner);
	put16(m, type);
	put16(m, 1);
	put16(m, ttl_s >> 16);
	put16(m, ttl_s & 0xffff);
	put16(m, (unsigned)n);
	put(m, data, n);
}

void ns_make_address(int family, unsigned i, struct addr *out)
{
	char text[64];

	if (family == AF_INET)
		snprintf(text, sizeof(text), "192.0.%u.%u", 2 + i / 250, 1 + i % 250);
	else
		snprintf(text, sizeof(text), "2001:db8::%x", i + 1);
	ADIT_ASSERT(addr_from_literal(out, slice_of(text), 0));
}

static void put_addresses(struct message *m, const char *owner, unsigned type, const struct ns_set *set)
{
	for (unsigned i = 0; i < set->count; i++) {
		struct addr a;

		ns_make_address(type == TYPE_A ? AF_INET : AF_INET6, i, &a);
		for (unsigned r = 0; r == 0 || r < set->repeat; r++) {
			if (type == TYPE_A)
				put_record(m, owner, type, set->ttl_s, &a.in.sin_addr, 4);
			else
				put_record(m, owner, type, set->ttl_s, &a.in6.sin6_addr, 16);
		}
	}
}

static void put_alias(struct message *m, const char *owner, const char *target, unsigned ttl_s)
{
	struct message data = { .n = 0 };

	put_name(&data, target);
	put_record(m, owner, TYPE_CNAME, ttl_s, data.bytes, data.n);
}

static void begin(struct message *m, const struct question *q, unsigned rcode, bool truncated, unsigned answers)
{
	m->n = 0;
	put(m, q->bytes, 2);
	put16(m, 0x8180u | (truncated ? 0x0200u : 0) | rcode);
	put16(m, 1);
	put16(m, answers);
	put16(m, 0);
	put16(m, 0);
	put(m, q->bytes + 12, q->end - 12);
}

static void send_message(struct nameserver *ns, const struct question *q, const struct message *m)
{
	if (q->tcp) {
		uint8_t length[2] = { (uint8_t)(m->n >> 8), (uint8_t)m->n };

		/* In pieces, so that the reader has to put them together. */
		ADIT_ASSERT(send(q->tcp->fd, length, 1, MSG_NOSIGNAL) == 1);
		ADIT_ASSERT(send(q->tcp->fd, length + 1, 1, MSG_NOSIGNAL) == 1);
		ADIT_ASSERT(send(q->tcp->fd, m->bytes, m->n, MSG_NOSIGNAL) == (ssize_t)m->n);
		return;
	}
	/* The asker may have closed its port already. */
	(void)sendto(ns->udp, m->bytes, m->n, MSG_NOSIGNAL, (const struct sockaddr *)&q->from, q->from_len);
}

static void send_plain(struct nameserver *ns, const struct question *q, unsigned rcode, bool truncated)
{
	struct message m;

	begin(&m, q, rcode, truncated, 0);
	send_message(ns, q, &m);
}

static void send_data(struct nameserver *ns, const struct question *q, const struct ns_set *set)
{
	struct message m;

	begin(&m, q, 0, false, set->count * (set->repeat ? set->repeat : 1));
	put_addresses(&m, q->name, q->type, set);
	send_message(ns, q, &m);
}

static void send_alias(struct nameserver *ns, const struct question *q, const struct ns_set *set, bool alone)
{
	struct message m;

	begin(&m, q, 0, false, alone ? 1 : 2 + set->count);
	put_alias(&m, q->name, "middle.test", 3000);
	if (!alone) {
		put_alias(&m, "middle.test", "end.test", 7);
		put_addresses(&m, "end.test", q->type, set);
	}
	send_message(ns, q, &m);
}

static void send_lie(struct nameserver *ns, const struct question *q, const struct ns_set *set)
{
	struct ns_set lie = { NS_DATA, set->count + 3, 3600, 0 };
	struct question wrong = *q;

	if (set->kind != NS_WRONG_QUESTION)
		wrong.bytes[0] ^= 0x55;
	else
		wrong.bytes[13] = wrong.bytes[13] == 'x' ? 'y' : 'x';
	send_data(ns, &wrong, &lie);
	if (set->kind != NS_WRONG_ALWAYS)
		send_data(ns, q, set);
}

static void hold(struct nameserver *ns, const struct question *q, const struct ns_set *set)
{
	struct held *h = calloc(1, sizeof(*h));

	ADIT_ASSERT(h);
	h->q = *q;
	h->set = *set;
	TAILQ_INSERT_TAIL(&ns->held, h, entry);
	ns->held_count++;
}

static void answer(struct nameserver *ns, const struct question *q)
{
	const struct ns_zone *zone = ns->zones;
	const struct ns_set *set;
	struct message m;

	while (zone->name && strcasecmp(zone->name, q->name) != 0)
		zone++;
	if (!zone->name) {
		send_plain(ns, q, NXDOMAIN, false);
		return;
	}
	set = q->type == TYPE_A ? &zone->a : &zone->aaaa;
	switch (set->kind) {
	case NS_NODATA:
		send_plain(ns, q, 0, false);
		break;
	case NS_DATA:
		send_data(ns, q, set);
		break;
	case NS_NXDOMAIN:
		send_plain(ns, q, NXDOMAIN, false);
		break;
	case NS_SERVFAIL:
		send_plain(ns, q, SERVFAIL, false);
		break;
	case NS_SILENT:
		break;
	case NS_HOLD:
		hold(ns, q, set);
		break;
	case NS_TRUNCATED:
		if (q->tcp)
			send_data(ns, q, set);
		else
			send_plain(ns, q, 0, true);
		break;
	case NS_ALIAS:
	case NS_ALIAS_ALONE:
		send_alias(ns, q, set, set->kind == NS_ALIAS_ALONE);
		break;
	case NS_WRONG_ID:
	case NS_WRONG_QUESTION:
	case NS_WRONG_ALWAYS:
		send_lie(ns, q, set);
		break;
	case NS_NO_EDNS:
		if (q->edns)
			send_plain(ns, q, FORMERR, false);
		else
			send_data(ns, q, set);
		break;
	case NS_GARBAGE:
		begin(&m, q, 0, false, 5);
		put(&m, "\xc0\x0c\x00\x01\xff\xff\xff\xff", 8);
		send_message(ns, q, &m);
		break;
	}
}

static bool parse(struct question *q)
{
	size_t at = 12, n = 0;

	if (q->n < 17)
		return false;
	while (at < q->n && q->bytes[at] != 0) {
		size_t label = q->bytes[at];

		if (label > 63 || at + 1 + label >= q->n || n + label + 1 >= sizeof(q->name))
			return false;
		if (n > 0)
			q->name[n++] = '.';
		memcpy(q->name + n, q->bytes + at + 1, label);
		n += label;
		at += 1 + label;
	}
	if (at + 5 > q->n)
		return false;
	q->name[n] = '\0';
	q->type = (unsigned)q->bytes[at + 1] << 8 | q->bytes[at + 2];
	q->end = at + 5;
	q->edns = q->bytes[11] == 1;
	return q->type == TYPE_A || q->type == TYPE_AAAA;
}

static void handle(struct nameserver *ns, struct question *q)
{
	ADIT_ASSERT(parse(q));
	memcpy(ns->last_name, q->name, sizeof(q->name));
	answer(ns, q);
}

static void on_udp(evutil_socket_t fd, short what ADIT_UNUSED, void *ctx)
{
	struct nameserver *ns = ctx;

	for (;;) {
		struct question q = { .from_len = sizeof(q.from) };
		ssize_t n = recvfrom(fd, q.bytes, sizeof(q.bytes), 0, (struct sockaddr *)&q.from, &q.from_len);

		if (n < 0)
			return;
		q.n = (size_t)n;
		ns->udp_count++;
		handle(ns, &q);
	}
}

static void client_free(struct client *c)
{
	TAILQ_REMOVE(&c->ns->clients, c, entry);
	event_free(c->event);
	close(c->fd);
	free(c);
}

static void on_client(evutil_socket_t fd, short what ADIT_UNUSED, void *ctx)
{
	struct client *c = ctx;
	ssize_t n = recv(fd, c->buf + c->n, sizeof(c->buf) - c->n, 0);

	if (n <= 0) {
		client_free(c);
		return;
	}
	c->n += (size_t)n;
	while (c->n >= 2 && c->n >= 2u + ((size_t)c->buf[0] << 8 | c->buf[1])) {
		struct question q = { .tcp = c, .n = (size_t)c->buf[0] << 8 | c->buf[1] };

		memcpy(q.bytes, c->buf + 2, q.n);
		c->n -= 2 + q.n;
		memmove(c->buf, c->buf + 2 + q.n, c->n);
		c->ns->tcp_count++;
		handle(c->ns, &q);
	}
}

static void on_accept(evutil_socket_t fd, short what ADIT_UNUSED, void *ctx)
{
	struct nameserver *ns = ctx;
	struct client *c = calloc(1, sizeof(*c));

	ADIT_ASSERT(c);
	c->ns = ns;
	c->fd = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	ADIT_ASSERT(c->fd >= 0);
	c->event = event_new(ns->base, c->fd, EV_READ | EV_PERSIST, on_client, c);
	ADIT_ASSERT(c->event && event_add(c->event, NULL) == 0);
	TAILQ_INSERT_TAIL(&ns->clients, c, entry);
}

struct nameserver *ns_new(struct event_base *base, const struct ns_zone *zones)
{
	struct nameserver *ns = calloc(1, sizeof(*ns));
	struct addr at;

	ADIT_ASSERT(ns);
	ns->base = base;
	ns->zones = zones;
	TAILQ_INIT(&ns->clients);
	TAILQ_INIT(&ns->held);
	/* TCP's choice of a port may be taken in UDP. */
	for (int tries = 0;; tries++) {
		ADIT_ASSERT(tries < 100);
		ADIT_ASSERT(addr_parse(&at, slice_of("127.0.0.1:0")));
		ns->tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		ADIT_ASSERT(ns->tcp >= 0 && bind(ns->tcp, &at.sa, at.len) == 0 && listen(ns->tcp, 16) == 0);
		ns_address(ns, &at);
		ns->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		ADIT_ASSERT(ns->udp >= 0);
		if (bind(ns->udp, &at.sa, at.len) == 0)
			break;
		close(ns->udp);
		close(ns->tcp);
	}
	ns->udp_event = event_new(base, ns->udp, EV_READ | EV_PERSIST, on_udp, ns);
	ns->tcp_event = event_new(base, ns->tcp, EV_READ | EV_PERSIST, on_accept, ns);
	ADIT_ASSERT(ns->udp_event && event_add(ns->udp_event, NULL) == 0);
	ADIT_ASSERT(ns->tcp_event && event_add(ns->tcp_event, NULL) == 0);
	return ns;
}

void ns_free(struct nameserver *ns)
{
	struct held *h;

	while ((h = TAILQ_FIRST(&ns->held)) != NULL) {
		TAILQ_REMOVE(&ns->held, h, entry);
		free(h);
	}
	while (!TAILQ_EMPTY(&ns->clients))
		client_free(TAILQ_FIRST(&ns->clients));
	event_free(ns->udp_event);
	event_free(ns->tcp_event);
	close(ns->udp);
	close(ns->tcp);
	free(ns);
}

void ns_address(const struct nameserver *ns, struct addr *out)
{
	struct sockaddr_in in;
	socklen_t n = sizeof(in);

	ADIT_ASSERT(getsockname(ns->tcp, (struct sockaddr *)&in, &n) == 0);
	ADIT_ASSERT(addr_from_sockaddr(out, (const struct sockaddr *)&in, n));
}

void ns_release(struct nameserver *ns)
{
	struct held *h;

	while ((h = TAILQ_FIRST(&ns->held)) != NULL) {
		TAILQ_REMOVE(&ns->held, h, entry);
		ns->held_count--;
		send_data(ns, &h->q, &h->set);
		free(h);
	}
}

void ns_set_zones(struct nameserver *ns, const struct ns_zone *zones)
{
	ns->zones = zones;
}

unsigned ns_udp_count(const struct nameserver *ns)
{
	return ns->udp_count;
}

unsigned ns_tcp_count(const struct nameserver *ns)
{
	return ns->tcp_count;
}

unsigned ns_held(const struct nameserver *ns)
{
	return ns->held_count;
}

const char *ns_last_name(const struct nameserver *ns)
{
	return ns->last_name;
}
