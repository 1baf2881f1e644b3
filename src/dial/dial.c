/* Happy eyeballs (RFC 8305): connects to the addresses of one destination, staggered, until one answers.
 *
 *   dial --owns--> attempt per address: idle -> connecting -> closed, or handed over as the winner
 *
 * What is hard: the whole may end in three places (a socket's event, an attempt's deadline, the first task), each of
 * which must be the last to touch the dial; so everything that can end it returns through dial_go_on or dial_finish,
 * which call done as their last act, from the loop's frame and never from dial_start.
 *
 * TCP_USER_TIMEOUT is left alone: Linux applies it to a peer that is alive and merely takes no bytes, too, and how
 * long that may last is for deadlines.stall to say. */
#include "adit/dial/dial.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/tcp.h>
#include <unistd.h>

#define DIAL_MAGIC OBJ_MAGIC('d', 'i', 'a', 'l')
#define ATTEMPT_MAGIC OBJ_MAGIC('d', 'i', 'a', 't')

enum {
	STAGGER_MS = 250, /* RFC 8305 5 */
	KEEPALIVE_IDLE_S = 60,
	KEEPALIVE_INTERVAL_S = 15,
	KEEPALIVE_PROBES = 4,
};

struct attempt {
	uint32_t magic;
	struct dial *dial;
	struct addr address;
	int fd; /* -1: not connecting */
	struct event event;
	struct deadline deadline;
};

struct dial {
	uint32_t magic;
	struct loop *loop;
	dial_done_fn *done;
	void *ctx;
	struct addr source_v4, source_v6;
	unsigned address_ms;
	struct loop_task start;
	struct deadline stagger;
	enum reason failure; /* the most telling so far; REASON_OK: none */
	struct addr failure_address;
	size_t count, next, live; /* attempts[next] is the first not yet tried */
	struct attempt attempts[];
};

static void on_start(void *ctx);
static void on_stagger(void *ctx);
static void on_deadline(void *ctx);
static void on_connected(evutil_socket_t fd, short what, void *ctx);

/* --- what a failure tells --- */

/* What the destination itself said comes first, then our own faults, which the operator has to see, then silence; that
 * a whole family has no route here is the rule on many hosts and says least. */
static unsigned weight(enum reason r)
{
	static const enum reason order[] = { REASON_DIAL_UNREACHABLE, REASON_DIAL_FAILED, REASON_DIAL_TIMEOUT,
		REASON_DIAL_SOURCE, REASON_NO_MEMORY, REASON_NO_DESCRIPTORS, REASON_DIAL_RESET, REASON_DIAL_REFUSED };

	for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if (order[i] == r)
			return i + 1;
	return 0;
}

static enum reason reason_of(int err, bool own_source)
{
	switch (err) {
	case ECONNREFUSED:
		return REASON_DIAL_REFUSED;
	case ECONNRESET:
	case ECONNABORTED:
		return REASON_DIAL_RESET;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
	case EAFNOSUPPORT: /* a kernel without IPv6 */
		return REASON_DIAL_UNREACHABLE;
	case ETIMEDOUT:
		return REASON_DIAL_TIMEOUT;
	case EMFILE:
	case ENFILE:
		return REASON_NO_DESCRIPTORS;
	case ENOMEM:
	case ENOBUFS:
		return REASON_NO_MEMORY;
	case EADDRNOTAVAIL:
		return own_source ? REASON_DIAL_SOURCE : REASON_DIAL_FAILED;
	default:
		return REASON_DIAL_FAILED;
	}
}

static void note_failure(struct dial *dial, const struct attempt *a, enum reason why, int err)
{
	static struct log_limit limit = LOG_LIMIT(10000);
	char text[ADDR_TEXT_SIZE];

	/* The reason's sentence does not say which fault these are; the others' do. */
	if ((why == REASON_DIAL_FAILED || why == REASON_DIAL_SOURCE) && log_limit(&limit))
		log_warning("dial: %s: %s", addr_text(&a->address, text), strerror(err));
	if (weight(why) <= weight(dial->failure))
		return;
	dial->failure = why;
	dial->failure_address = a->address;
}

/* --- one attempt --- */

static void attempt_stop(struct attempt *a)
{
	if (a->fd < 0)
		return;
	event_del(&a->event);
	deadline_clear(&a->deadline);
	a->fd = -1;
	a->dial->live--;
}

static void attempt_close(struct attempt *a)
{
	int fd = a->fd;

	attempt_stop(a);
	if (fd >= 0)
		close(fd);
}

static void set_options(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S },
		{ IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S },
		{ IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES },
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(options[i].value));
}

static bool bind_source(int fd, const struct addr *source)
{
	struct addr from = *source;
	int on = 1;

	/* The port is chosen at connect, where only the pair of both ends must be unique. */
	(void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	addr_set_port(&from, 0);
	return bind(fd, &from.sa, from.len) == 0;
}

/* True: the attempt is under way. Otherwise its failure is noted. */
static bool attempt_start(struct attempt *a)
{
	struct dial *dial = a->dial;
	const struct addr *source = a->address.sa.sa_family == AF_INET ? &dial->source_v4 : &dial->source_v6;
	int fd = socket(a->address.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP), err;
	enum reason why;

	if (fd < 0) {
		err = errno;
		why = reason_of(err, false);
		goto fail;
	}
	set_options(fd);
	if (source->len > 0 && !bind_source(fd, source)) {
		err = errno;
		why = REASON_DIAL_SOURCE;
		goto fail;
	}
	if (connect(fd, &a->address.sa, a->address.len) != 0 && errno != EINPROGRESS && errno != EINTR) {
		err = errno;
		why = reason_of(err, source->len > 0);
		goto fail;
	}
	err = ENOMEM;
	why = REASON_NO_MEMORY;
	if (event_assign(&a->event, loop_base(dial->loop), fd, EV_WRITE, on_connected, a) != 0 ||
	    event_add(&a->event, NULL) != 0)
		goto fail;
	a->fd = fd;
	dial->live++;
	if (deadline_set(&a->deadline, dial->address_ms))
		return true;
	attempt_stop(a);
fail:
	if (fd >= 0)
		close(fd);
	note_failure(dial, a, why, err);
	return false;
}

/* A free local port may be dialled from itself, and TCP lets both ends be one: nobody is there. */
static bool is_connected_to_itself(int fd)
{
	struct addr ends[2];
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);

	if (getsockname(fd, (struct sockaddr *)&sa, &n) != 0 ||
	    !addr_from_sockaddr(&ends[0], (const struct sockaddr *)&sa, n))
		return false;
	n = sizeof(sa);
	if (getpeername(fd, (struct sockaddr *)&sa, &n) != 0 ||
	    !addr_from_sockaddr(&ends[1], (const struct sockaddr *)&sa, n))
		return false;
	return addr_equal(&ends[0], &ends[1]);
}

static int connect_error(int fd)
{
	int err = 0;
	socklen_t n = sizeof(err);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) != 0)
		return errno;
	if (err == 0 && is_connected_to_itself(fd))
		return ECONNREFUSED;
	return err;
}

/* --- the whole --- */

static void dial_free(struct dial *dial)
{
	loop_unpost(dial->loop, &dial->start);
	deadline_fini(&dial->stagger);
	for (size_t i = 0; i < dial->count; i++) {
		attempt_close(&dial->attempts[i]);
		deadline_fini(&dial->attempts[i].deadline);
		OBJ_FINI(&dial->attempts[i]);
	}
	OBJ_FINI(dial);
	mem_free(dial);
}

static void dial_finish(struct dial *dial, enum reason verdict, int fd, const struct addr *where)
{
	dial_done_fn *done = dial->done;
	void *ctx = dial->ctx;
	struct addr address = *where;

	dial_free(dial);
	done(ctx, verdict, fd, &address);
}

/* Starts the next attempt, skipping those that fail at once. The dial may be gone afterwards. */
static void dial_go_on(struct dial *dial)
{
	deadline_clear(&dial->stagger);
	while (dial->next < dial->count) {
		if (!attempt_start(&dial->attempts[dial->next++]))
			continue;
		/* Without a timer nothing would start the one after it: then it starts now. */
		if (dial->next == dial->count || deadline_set(&dial->stagger, STAGGER_MS))
			return;
	}
	if (dial->live == 0)
		dial_finish(dial, dial->failure, -1, &dial->failure_address);
}

static void on_start(void *ctx)
{
	struct dial *dial;

	OBJ_CAST(dial, ctx, DIAL_MAGIC);
	dial_go_on(dial);
}

static void on_stagger(void *ctx)
{
	struct dial *dial;

	OBJ_CAST(dial, ctx, DIAL_MAGIC);
	dial_go_on(dial);
}

static void attempt_fail(struct attempt *a, enum reason why, int err)
{
	attempt_close(a);
	note_failure(a->dial, a, why, err);
	dial_go_on(a->dial);
}

static void on_deadline(void *ctx)
{
	struct attempt *a;

	OBJ_CAST(a, ctx, ATTEMPT_MAGIC);
	attempt_fail(a, REASON_DIAL_TIMEOUT, ETIMEDOUT);
}

static void on_connected(evutil_socket_t fd, short what ADIT_UNUSED, void *ctx)
{
	struct attempt *a;
	int err = connect_error(fd);

	OBJ_CAST(a, ctx, ATTEMPT_MAGIC);
	if (err != 0) {
		const struct addr *source = a->address.sa.sa_family == AF_INET ? &a->dial->source_v4 : &a->dial->source_v6;

		attempt_fail(a, reason_of(err, source->len > 0), err);
		return;
	}
	attempt_stop(a); /* the descriptor stays open: it is the callee's now */
	dial_finish(a->dial, REASON_OK, fd, &a->address);
}

/* RFC 8305 4: families alternate, IPv6 first, each in the order given. */
static void set_attempts(struct dial *dial, const struct addr *addresses, size_t count)
{
	size_t at[2] = { 0, 0 }; /* IPv6, IPv4: next one to look at */
	static const sa_family_t family[2] = { AF_INET6, AF_INET };

	for (unsigned turn = 0; dial->count < count; turn ^= 1) {
		struct attempt *a = &dial->attempts[dial->count];

		while (at[turn] < count && addresses[at[turn]].sa.sa_family != family[turn])
			at[turn]++;
		if (at[turn] == count)
			continue;
		OBJ_INIT(a, ATTEMPT_MAGIC);
		a->dial = dial;
		a->fd = -1;
		a->address = addresses[at[turn]++];
		deadline_init(&a->deadline, dial->loop, on_deadline, a);
		dial->count++;
	}
}

struct dial *dial_start(struct loop *loop, const struct conf *conf, const struct addr *addresses, size_t count,
	dial_done_fn *done, void *ctx)
{
	struct dial *dial;

	ADIT_ASSERT(count > 0 && count < 1000);
	for (size_t i = 0; i < count; i++)
		ADIT_ASSERT(addresses[i].sa.sa_family == AF_INET || addresses[i].sa.sa_family == AF_INET6);
	dial = mem_alloc(sizeof(*dial) + count * sizeof(dial->attempts[0]));
	if (!dial)
		return NULL;
	OBJ_INIT(dial, DIAL_MAGIC);
	dial->loop = loop;
	dial->done = done;
	dial->ctx = ctx;
	dial->source_v4 = conf->dial.source_v4;
	dial->source_v6 = conf->dial.source_v6;
	dial->address_ms = conf->deadlines.dial_address;
	dial->failure = REASON_OK;
	deadline_init(&dial->stagger, loop, on_stagger, dial);
	loop_task_init(&dial->start, on_start, dial);
	set_attempts(dial, addresses, count);
	loop_post(loop, &dial->start);
	return dial;
}

void dial_cancel(struct dial *dial)
{
	OBJ_CHECK(dial, DIAL_MAGIC);
	dial_free(dial);
}

enum reason dial_failure(const struct dial *dial, struct addr *address)
{
	OBJ_CHECK(dial, DIAL_MAGIC);
	if (weight(dial->failure) >= weight(REASON_DIAL_TIMEOUT)) {
		*address = dial->failure_address;
		return dial->failure;
	}
	/* Whatever failed, something is still waited for; name the first of these. */
	*address = dial->attempts[0].address;
	for (size_t i = 0; i < dial->count; i++)
		if (dial->attempts[i].fd >= 0) {
			*address = dial->attempts[i].address;
			break;
		}
	return REASON_DIAL_TIMEOUT;
}
