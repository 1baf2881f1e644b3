/* Dialling real sockets on loopback under a clock that the test turns: outcomes, order, deadlines, cancelling. */
#include "adit/dial/dial.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ADDRESS_MS = 4000, STAGGER_MS = 250, BLACK_HOLE_FILL = 16 };

struct answer {
	unsigned calls;
	enum reason verdict;
	int fd;
	struct addr address;
};

static struct loop *loop;
static struct conf conf;
static unsigned descriptors;

static unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void setup(void)
{
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	conf.deadlines.dial_address = ADDRESS_MS;
	descriptors = open_descriptors();
}

static void teardown(void)
{
	cr_expect_eq(open_descriptors(), descriptors, "a descriptor is left");
	loop_free(loop);
}

TestSuite(dial, .init = setup, .fini = teardown, .timeout = 60);

#define UNTIL(condition)                                                   \
	do {                                                               \
		for (unsigned turn_ = 0; !(condition) && turn_ < 10000; turn_++) { \
			loop_turn(loop);                                   \
			if (!(condition))                                  \
				poll(NULL, 0, 1);                          \
		}                                                          \
		cr_assert(condition);                                      \
	} while (0)

/* --- destinations --- */

static struct addr local_address(int fd)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	struct addr a;

	cr_assert_eq(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
	cr_assert(addr_from_sockaddr(&a, (const struct sockaddr *)&sa, n));
	return a;
}

static int listen_at(const char *text, int backlog, struct addr *at)
{
	int fd;

	cr_assert(addr_parse(at, slice_of(text)));
	fd = socket(at->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert(fd >= 0 && bind(fd, &at->sa, at->len) == 0 && listen(fd, backlog) == 0);
	*at = local_address(fd);
	return fd;
}

/* Containers without IPv6 exist; at the top of a test, before it holds anything. */
static void need_ipv6(void)
{
	struct addr at;
	int fd;
	bool there;

	cr_assert(addr_parse(&at, slice_of("[::1]:0")));
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	there = fd >= 0 && bind(fd, &at.sa, at.len) == 0;
	if (fd >= 0)
		close(fd);
	if (!there)
		cr_skip_test("no IPv6 loopback here");
}

static struct addr refusing(const char *text)
{
	struct addr at;

	close(listen_at(text, 1, &at));
	return at;
}

/* A listener whose queue is full: what comes now gets no answer. */
struct black_hole {
	struct addr at;
	int fd, fill[BLACK_HOLE_FILL];
};

static struct black_hole black_hole(const char *text)
{
	struct black_hole hole;

	hole.fd = listen_at(text, 0, &hole.at);
	for (int i = 0; i < BLACK_HOLE_FILL; i++) {
		hole.fill[i] = socket(hole.at.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		cr_assert_geq(hole.fill[i], 0);
		(void)connect(hole.fill[i], &hole.at.sa, hole.at.len);
	}
	return hole;
}

static void black_hole_close(struct black_hole *hole)
{
	for (int i = 0; i < BLACK_HOLE_FILL; i++)
		close(hole->fill[i]);
	close(hole->fd);
}

static struct addr literal(const char *text)
{
	struct addr at;

	cr_assert(addr_parse(&at, slice_of(text)));
	return at;
}

static void on_done(void *ctx, enum reason verdict, int fd, const struct addr *address)
{
	struct answer *a = ctx;

	a->calls++;
	a->verdict = verdict;
	a->fd = fd;
	a->address = *address;
}

static struct dial *start(struct answer *a, const struct addr *addresses, size_t count)
{
	struct dial *dial;

	*a = (struct answer){ .fd = -2 };
	dial = dial_start(loop, &conf, addresses, count, on_done, a);
	cr_assert_not_null(dial);
	cr_assert_eq(a->calls, 0);
	return dial;
}

/* ... and lets it begin: deadlines are set from then on. */
static struct dial *begin(struct answer *a, const struct addr *addresses, size_t count)
{
	struct dial *dial = start(a, addresses, count);

	loop_turn(loop);
	return dial;
}

static struct answer dial_to(const struct addr *addresses, size_t count)
{
	struct answer a;

	start(&a, addresses, count);
	UNTIL(a.calls > 0);
	loop_turn(loop);
	cr_assert_eq(a.calls, 1);
	return a;
}

static void expect_connected(const struct answer *a, const struct addr *to)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 60 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 15 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 4 },
	};
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	struct addr peer;

	cr_assert_eq(a->verdict, REASON_OK, "%s", reason_name(a->verdict));
	cr_assert_geq(a->fd, 0);
	cr_expect(addr_equal(&a->address, to));
	cr_assert_eq(getpeername(a->fd, (struct sockaddr *)&sa, &n), 0);
	cr_assert(addr_from_sockaddr(&peer, (const struct sockaddr *)&sa, n));
	cr_expect(addr_equal(&peer, to));
	cr_expect(fcntl(a->fd, F_GETFL) & O_NONBLOCK);
	cr_expect(fcntl(a->fd, F_GETFD) & FD_CLOEXEC);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int value = 0;

		n = sizeof(value);
		cr_assert_eq(getsockopt(a->fd, options[i].level, options[i].name, &value, &n), 0);
		cr_expect_eq(value, options[i].value, "option %zu", i);
	}
	close(a->fd);
}

static void expect_failed(const struct answer *a, enum reason verdict, const struct addr *at)
{
	char got[ADDR_TEXT_SIZE];

	cr_expect_eq(a->verdict, verdict, "%s", reason_name(a->verdict));
	cr_expect_eq(a->fd, -1);
	cr_expect(addr_equal(&a->address, at), "%s", addr_text(&a->address, got));
}

/* --- outcomes --- */

Test(dial, connects)
{
	need_ipv6();

	static const char *const where[] = { "127.0.0.1:0", "[::1]:0" };

	for (int i = 0; i < 2; i++) {
		struct addr at;
		int fd = listen_at(where[i], 4, &at);
		struct answer a = dial_to(&at, 1);

		expect_connected(&a, &at);
		close(fd);
	}
}

Test(dial, refused)
{
	need_ipv6();

	struct addr at[2] = { refusing("127.0.0.1:0"), refusing("[::1]:0") };
	struct answer a;

	a = dial_to(&at[0], 1);
	expect_failed(&a, REASON_DIAL_REFUSED, &at[0]);
	a = dial_to(&at[1], 1);
	expect_failed(&a, REASON_DIAL_REFUSED, &at[1]);
	a = dial_to(at, 2); /* the first that said it: IPv6 */
	expect_failed(&a, REASON_DIAL_REFUSED, &at[1]);
}

/* Refused is refused at once: the others do not wait for the stagger (the clock stands still here). */
Test(dial, next_at_once_when_one_fails)
{
	need_ipv6();

	struct addr at[4] = { refusing("127.0.0.1:0"), refusing("[::1]:0"), refusing("127.0.0.1:0"), { .len = 0 } };
	int fd = listen_at("127.0.0.1:0", 4, &at[3]);
	struct answer a = dial_to(at, 4);

	expect_connected(&a, &at[3]);
	close(fd);
}

Test(dial, families_alternate_ipv6_first)
{
	need_ipv6();

	struct addr at[5] = { refusing("127.0.0.1:0"), { .len = 0 }, { .len = 0 }, refusing("[::1]:0"), { .len = 0 } };
	int first4 = listen_at("127.0.0.1:0", 4, &at[1]), second4 = listen_at("127.0.0.1:0", 4, &at[2]);
	int second6 = listen_at("[::1]:0", 4, &at[4]);
	/* Order: refusing IPv6, refusing IPv4, second IPv6. */
	struct answer a = dial_to(at, 5);

	expect_connected(&a, &at[4]);
	a = dial_to(at, 4); /* without it: the second IPv4 */
	expect_connected(&a, &at[1]);
	a = dial_to(at + 1, 3); /* refusing IPv6, then the first IPv4 of these */
	expect_connected(&a, &at[1]);
	close(first4);
	close(second4);
	close(second6);
}

Test(dial, silent_address_delays_by_the_stagger_only)
{
	need_ipv6();

	struct black_hole hole = black_hole("[::1]:0");
	struct addr at[2] = { { .len = 0 }, hole.at };
	int fd = listen_at("127.0.0.1:0", 4, &at[0]);
	struct answer a;

	begin(&a, at, 2);
	for (int i = 0; i < 20; i++)
		loop_turn(loop);
	loop_advance(loop, STAGGER_MS - 1);
	cr_expect_eq(a.calls, 0);
	loop_advance(loop, 1);
	UNTIL(a.calls == 1);
	expect_connected(&a, &at[0]);
	close(fd);
	black_hole_close(&hole);
}

Test(dial, each_address_has_its_deadline)
{
	struct black_hole hole = black_hole("127.0.0.1:0");
	struct addr at[2] = { hole.at, { .len = 0 } };
	struct answer a;

	begin(&a, at, 1);
	loop_advance(loop, ADDRESS_MS - 1);
	cr_expect_eq(a.calls, 0);
	loop_advance(loop, 1);
	cr_expect_eq(a.calls, 1);
	expect_failed(&a, REASON_DIAL_TIMEOUT, &hole.at);

	/* Two of them end one stagger apart. */
	at[1] = hole.at;
	begin(&a, at, 2);
	loop_advance(loop, ADDRESS_MS + STAGGER_MS - 1);
	cr_expect_eq(a.calls, 0);
	loop_advance(loop, 1);
	cr_expect_eq(a.calls, 1);
	expect_failed(&a, REASON_DIAL_TIMEOUT, &hole.at);

	/* Off: the caller's own deadline is the only one. */
	conf.deadlines.dial_address = DEADLINE_OFF;
	struct dial *dial = begin(&a, at, 2);

	loop_advance(loop, 1000000);
	cr_expect_eq(a.calls, 0);
	dial_cancel(dial);
	black_hole_close(&hole);
}

Test(dial, the_most_telling_failure_wins)
{
	need_ipv6();

	struct black_hole hole = black_hole("[::1]:0");
	struct addr refuses = refusing("127.0.0.1:0"), broadcast = literal("255.255.255.255:9");
	struct addr at[2] = { hole.at, refuses };
	struct answer a;

	begin(&a, at, 2);
	loop_advance(loop, STAGGER_MS);
	for (int i = 0; i < 20; i++)
		loop_turn(loop);
	cr_expect_eq(a.calls, 0);
	loop_advance(loop, ADDRESS_MS);
	UNTIL(a.calls == 1);
	expect_failed(&a, REASON_DIAL_REFUSED, &refuses);

	/* TCP to a broadcast address fails inside connect. */
	a = dial_to(&broadcast, 1);
	cr_expect_eq(a.fd, -1);
	cr_expect(a.verdict == REASON_DIAL_FAILED || a.verdict == REASON_DIAL_UNREACHABLE, "%s", reason_name(a.verdict));
	at[1] = broadcast;
	begin(&a, at, 2);
	loop_advance(loop, STAGGER_MS);
	loop_advance(loop, ADDRESS_MS);
	UNTIL(a.calls == 1);
	expect_failed(&a, REASON_DIAL_TIMEOUT, &hole.at);
	black_hole_close(&hole);
}

Test(dial, failure_so_far)
{
	need_ipv6();

	struct black_hole hole = black_hole("[::1]:0");
	struct addr at[2] = { hole.at, refusing("127.0.0.1:0") }, where;
	struct answer a;
	struct dial *dial = start(&a, at, 2);

	cr_expect_eq(dial_failure(dial, &where), REASON_DIAL_TIMEOUT);
	cr_expect(addr_equal(&where, &hole.at));
	loop_advance(loop, 0);
	cr_expect_eq(dial_failure(dial, &where), REASON_DIAL_TIMEOUT);
	cr_expect(addr_equal(&where, &hole.at));
	loop_advance(loop, STAGGER_MS);
	UNTIL(dial_failure(dial, &where) == REASON_DIAL_REFUSED);
	cr_expect(addr_equal(&where, &at[1]));
	dial_cancel(dial);
	cr_expect_eq(a.calls, 0);
	black_hole_close(&hole);
}

Test(dial, source_address)
{
	need_ipv6();

	struct addr at[2];
	int fd4 = listen_at("127.0.0.1:0", 4, &at[0]), fd6 = listen_at("[::1]:0", 4, &at[1]);
	struct answer a;
	struct addr local;

	conf.dial.source_v4 = literal("127.0.0.77:0");
	a = dial_to(&at[0], 1);
	cr_assert_eq(a.verdict, REASON_OK);
	local = local_address(a.fd);
	cr_expect(addr_same_host(&local, &conf.dial.source_v4));
	expect_connected(&a, &at[0]);
	a = dial_to(&at[1], 1); /* the other family is free */
	expect_connected(&a, &at[1]);

	/* An address that is not ours (TEST-NET-1). */
	conf.dial.source_v4 = literal("192.0.2.1:0");
	a = dial_to(&at[0], 1);
	expect_failed(&a, REASON_DIAL_SOURCE, &at[0]);
	a = dial_to(at, 2);
	expect_connected(&a, &at[1]);
	conf.dial.source_v6 = literal("[2001:db8::1]:0");
	a = dial_to(at, 2);
	expect_failed(&a, REASON_DIAL_SOURCE, &at[1]);
	close(fd4);
	close(fd6);
}

/* A network of our own with one free port. */
static bool enter_network_with_one_port(const char *range)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd, ctl;
	bool ok;

	if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return false;
	fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC);
	ctl = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ok = fd >= 0 && ctl >= 0 && write(fd, range, strlen(range)) == (ssize_t)strlen(range) &&
		ioctl(ctl, SIOCSIFFLAGS, &lo) == 0;
	if (fd >= 0)
		close(fd);
	if (ctl >= 0)
		close(ctl);
	return ok;
}

/* Both ends of a connection may be one socket when a free port is dialled and is also what the kernel chooses. */
Test(dial, connecting_to_itself_is_refused)
{
	struct addr at = literal("127.0.0.1:40000");
	struct answer a;

	if (!enter_network_with_one_port("40000 40000"))
		cr_skip_test("no network namespace of our own here");
	a = dial_to(&at, 1);
	expect_failed(&a, REASON_DIAL_REFUSED, &at);
}

Test(dial, no_descriptor_left)
{
	struct addr at[3];
	int fd = listen_at("127.0.0.1:0", 4, &at[0]);
	struct rlimit limit, low;
	struct answer a;

	at[1] = at[2] = at[0];
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = limit;
	low.rlim_cur = 0; /* no new one; those that are open stay */
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
	a = dial_to(at, 3);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	expect_failed(&a, REASON_NO_DESCRIPTORS, &at[0]);
	a = dial_to(at, 3);
	expect_connected(&a, &at[0]);
	close(fd);
}

/* --- cancel --- */

Test(dial, cancel_before_the_first_turn)
{
	struct addr at;
	int fd = listen_at("127.0.0.1:0", 4, &at);
	struct answer a;

	dial_cancel(start(&a, &at, 1));
	for (int i = 0; i < 20; i++)
		loop_turn(loop);
	loop_advance(loop, 100000);
	cr_expect_eq(a.calls, 0);
	close(fd);
}

Test(dial, cancel_while_connecting)
{
	struct black_hole hole = black_hole("127.0.0.1:0");
	struct addr at[3] = { hole.at, hole.at, hole.at };

	/* With one, two, three attempts out, and with the first ones timed out. */
	for (unsigned staggers = 0; staggers < 4; staggers++) {
		struct answer a;
		struct dial *dial = begin(&a, at, 3);

		loop_advance(loop, staggers * STAGGER_MS);
		cr_expect_eq(open_descriptors(),
			descriptors + 1 + BLACK_HOLE_FILL + (staggers < 3 ? staggers + 1 : 3));
		dial_cancel(dial);
		cr_expect_eq(open_descriptors(), descriptors + 1 + BLACK_HOLE_FILL);
		loop_advance(loop, 100000);
		cr_expect_eq(a.calls, 0);
	}
	struct answer a;
	struct dial *dial = begin(&a, at, 3);

	loop_advance(loop, ADDRESS_MS + STAGGER_MS);
	cr_expect_eq(open_descriptors(), descriptors + 1 + BLACK_HOLE_FILL + 1);
	cr_expect_eq(a.calls, 0);
	dial_cancel(dial);
	black_hole_close(&hole);
}

/* Connected in the kernel, not yet noticed by us. */
Test(dial, cancel_after_the_kernel_connected)
{
	struct addr at;
	int fd = listen_at("127.0.0.1:0", 4, &at), accepted;
	struct answer a;
	struct dial *dial;
	char byte;

	dial = start(&a, &at, 1);
	/* One pass: the task that starts the attempt runs, its event has not. */
	for (unsigned turn = 0; open_descriptors() == descriptors + 1 && a.calls == 0; turn++) {
		cr_assert_lt(turn, 100u);
		loop_turn(loop);
	}
	if (a.calls == 0) {
		dial_cancel(dial);
	} else {
		cr_assert_eq(a.verdict, REASON_OK); /* the turn took both steps */
		close(a.fd);
	}
	accepted = accept(fd, NULL, NULL);
	cr_assert_geq(accepted, 0);
	cr_expect_leq(recv(accepted, &byte, 1, 0), 0, "not a byte, and the end");
	close(accepted);
	close(fd);
}

/* The loser may have connected too: it is closed, without a byte. */
Test(dial, losers_are_closed)
{
	need_ipv6();

	struct black_hole hole = black_hole("[::1]:0");
	struct addr at[2] = { hole.at, { .len = 0 } };
	int fd = listen_at("127.0.0.1:0", 4, &at[1]);
	struct answer a;

	begin(&a, at, 2);
	loop_advance(loop, STAGGER_MS);
	UNTIL(a.calls == 1);
	cr_expect_eq(open_descriptors(), descriptors + 1 + 1 + BLACK_HOLE_FILL + 1);
	expect_connected(&a, &at[1]);
	close(fd);
	black_hole_close(&hole);
}

static struct addr again_at;
static struct answer again;

static void dial_again(void *ctx, enum reason verdict, int fd, const struct addr *address)
{
	on_done(ctx, verdict, fd, address);
	cr_assert_not_null(dial_start(loop, &conf, &again_at, 1, on_done, &again));
	cr_expect_eq(again.calls, 0);
}

Test(dial, done_may_dial_again)
{
	struct addr refuses = refusing("127.0.0.1:0");
	struct answer a = { .fd = -2 };
	int fd = listen_at("127.0.0.1:0", 4, &again_at);

	cr_assert_not_null(dial_start(loop, &conf, &refuses, 1, dial_again, &a));
	UNTIL(again.calls == 1);
	expect_failed(&a, REASON_DIAL_REFUSED, &refuses);
	expect_connected(&again, &again_at);
	close(fd);
}

Test(dial, every_allocation_may_fail)
{
	need_ipv6();

	struct addr at[2] = { refusing("[::1]:0"), { .len = 0 } };
	int fd = listen_at("127.0.0.1:0", 4, &at[1]);
	unsigned long n;
	bool hit = true;

	for (n = 1; hit; n++) {
		struct answer a = { .fd = -2 };
		struct dial *dial;

		mem_fault_set(n, false);
		dial = dial_start(loop, &conf, at, 2, on_done, &a);
		if (dial)
			UNTIL(a.calls == 1);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert(dial || hit);
		if (dial && a.verdict == REASON_OK)
			expect_connected(&a, &at[1]);
		else if (dial)
			expect_failed(&a, REASON_NO_MEMORY, &at[0]);
	}
	cr_expect_gt(n, 2);
	close(fd);
}

/* The real clock, for the timers that the manual one replaces. */
Test(dial, real_clock)
{
	need_ipv6();

	struct black_hole hole = black_hole("[::1]:0");
	struct addr at[2] = { hole.at, { .len = 0 } };
	int fd = listen_at("127.0.0.1:0", 4, &at[1]);
	struct answer a;

	loop_free(loop);
	loop = loop_new();
	cr_assert_not_null(loop);
	conf.deadlines.dial_address = 20;
	a = dial_to(at, 1);
	expect_failed(&a, REASON_DIAL_TIMEOUT, &hole.at);
	conf.deadlines.dial_address = ADDRESS_MS;
	a = dial_to(at, 2);
	expect_connected(&a, &at[1]);
	close(fd);
	black_hole_close(&hole);
}
