/* Listening sockets: sharing an address, being told that it is taken, and closing without resetting anybody. */
#include "server/listener.h"

#include "adit/base/mem.h"
#include "component/turning.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { COPIES = 4, CLIENTS = 40 };

static struct loop *loop;
static unsigned descriptors;
static int accepted[CLIENTS * 2];
static size_t accepted_n;
static struct addr last_peer;

static void setup(void)
{
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	descriptors = open_descriptors();
	accepted_n = 0;
}

static void teardown(void)
{
	for (size_t i = 0; i < accepted_n; i++)
		close(accepted[i]);
	cr_expect_eq(open_descriptors(), descriptors);
	loop_free(loop);
}

TestSuite(listener, .init = setup, .fini = teardown, .timeout = 60);

static void on_accept(void *ctx, int fd, const struct addr *peer)
{
	cr_assert_eq(ctx, &accepted);
	cr_assert_lt(accepted_n, sizeof(accepted) / sizeof(accepted[0]));
	accepted[accepted_n++] = fd;
	last_peer = *peer;
}

static struct addr at(const char *text)
{
	struct addr a;

	cr_assert(addr_parse(&a, slice_of(text)));
	return a;
}

static int connect_to(const struct addr *a)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_geq(fd, 0);
	cr_assert_eq(connect(fd, &a->sa, a->len), 0);
	return fd;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t n = sizeof(value);

	cr_assert_eq(getsockopt(fd, level, name, &value, &n), 0);
	return value;
}

Test(listener, copies_share_one_port_and_each_client_is_accepted_once)
{
	struct addr a = at("127.0.0.1:0"), bound;
	struct listener *listeners[COPIES];
	int fds[COPIES], clients[CLIENTS];
	struct sockaddr_storage sa;
	socklen_t n;
	char error[256];

	cr_assert(listener_bind(&a, fds, COPIES, true, error, sizeof(error)), "%s", error);
	cr_assert_neq(addr_port(&a), 0);
	for (size_t i = 0; i < COPIES; i++) {
		n = sizeof(sa);
		cr_assert_eq(getsockname(fds[i], (struct sockaddr *)&sa, &n), 0);
		cr_assert(addr_from_sockaddr(&bound, (struct sockaddr *)&sa, n));
		cr_assert(addr_equal(&bound, &a));
		listeners[i] = listener_start(loop, fds[i], on_accept, &accepted);
		cr_assert_not_null(listeners[i]);
	}
	for (size_t i = 0; i < CLIENTS; i++)
		clients[i] = connect_to(&a);
	UNTIL(loop, accepted_n == CLIENTS);
	cr_assert_eq(option(accepted[0], IPPROTO_TCP, TCP_NODELAY), 1);
	cr_assert_eq(option(accepted[0], SOL_SOCKET, SO_KEEPALIVE), 1);
	cr_assert(fcntl(accepted[0], F_GETFL) & O_NONBLOCK);
	cr_assert(fcntl(accepted[0], F_GETFD) & FD_CLOEXEC);
	n = sizeof(sa);
	cr_assert_eq(getsockname(clients[CLIENTS - 1], (struct sockaddr *)&sa, &n), 0);
	for (size_t i = 0; i < COPIES; i++)
		listener_stop(listeners[i]);
	for (size_t i = 0; i < CLIENTS; i++)
		close(clients[i]);
}

/* SO_REUSEPORT would let a second proxy take half of the connections without a word. */
Test(listener, a_second_proxy_is_told_that_the_address_is_taken)
{
	struct addr a = at("127.0.0.1:0"), again;
	int fds[2], more[2];
	char error[256] = "";

	cr_assert(listener_bind(&a, fds, 2, true, error, sizeof(error)), "%s", error);
	again = a;
	cr_assert_not(listener_bind(&again, more, 2, true, error, sizeof(error)));
	cr_assert_not_null(strstr(error, strerror(EADDRINUSE)), "%s", error);
	cr_assert_not_null(strstr(error, "127.0.0.1:"), "%s", error);
	close(fds[0]);
	close(fds[1]);
}

Test(listener, an_address_that_is_not_ours_says_so)
{
	struct addr a = at("203.0.113.1:0");
	int fds[1];
	char error[256] = "";

	cr_assert_not(listener_bind(&a, fds, 1, true, error, sizeof(error)));
	cr_assert_not_null(strstr(error, "cannot listen on 203.0.113.1:0: "), "%s", error);
}

Test(listener, the_wildcard_takes_ipv4)
{
	struct addr a = at("[::]:0"), v4 = at("127.0.0.1:0");
	struct listener *l;
	int fds[1], client;
	char error[256];

	cr_assert(listener_bind(&a, fds, 1, true, error, sizeof(error)), "%s", error);
	addr_set_port(&v4, addr_port(&a));
	l = listener_start(loop, fds[0], on_accept, &accepted);
	cr_assert_not_null(l);
	client = connect_to(&v4);
	UNTIL(loop, accepted_n == 1);
	cr_assert(addr_same_host(&last_peer, &v4), "IPv4 peers are IPv4, whatever the socket");
	close(client);
	listener_stop(l);
}

static unsigned closings;

static void on_closed(void *ctx)
{
	cr_assert_eq(ctx, &accepted);
	closings++;
}

/* A close resets what waits in the queue. And many may wait there: they must not all be served in one turn. */
Test(listener, closing_accepts_what_is_queued_some_in_each_turn)
{
	struct addr a = at("127.0.0.1:0");
	struct listener *l;
	int fds[1], clients[CLIENTS];
	char error[256], byte;

	cr_assert(listener_bind(&a, fds, 1, true, error, sizeof(error)), "%s", error);
	l = listener_start(loop, fds[0], on_accept, &accepted);
	for (size_t i = 0; i < CLIENTS; i++)
		clients[i] = connect_to(&a);
	cr_assert_eq(accepted_n, 0u);
	closings = 0;
	listener_close(l, on_closed);
	cr_assert_eq(accepted_n, 0u);
	cr_assert_eq(loop_held(loop), 1u);
	UNTIL(loop, closings > 0);
	cr_assert_eq(closings, 1u);
	cr_assert_eq(loop_held(loop), 0u);
	cr_assert_eq(accepted_n, (size_t)CLIENTS);
	for (size_t i = 0; i < CLIENTS; i++) {
		cr_assert_eq(send(accepted[i], "x", 1, MSG_NOSIGNAL), 1);
	}
	for (size_t i = 0; i < CLIENTS; i++) {
		cr_assert_eq(recv(clients[i], &byte, 1, 0), 1);
		close(clients[i]);
	}
}

Test(listener, without_descriptors_it_waits_and_goes_on)
{
	struct addr a = at("127.0.0.1:0");
	struct rlimit before, none;
	struct listener *l;
	int fds[1], client;
	char error[256];

	cr_assert(listener_bind(&a, fds, 1, true, error, sizeof(error)), "%s", error);
	l = listener_start(loop, fds[0], on_accept, &accepted);
	client = connect_to(&a);
	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &none);
	for (int i = 0; i < 20; i++)
		loop_turn(loop);
	cr_assert_eq(accepted_n, 0u);
	setrlimit(RLIMIT_NOFILE, &before);
	loop_turn(loop);
	cr_assert_eq(accepted_n, 0u, "it pauses instead of spinning");
	loop_advance(loop, 100);
	UNTIL(loop, accepted_n == 1);
	close(client);
	listener_stop(l);
}

Test(listener, may_be_stopped_while_it_pauses)
{
	struct addr a = at("127.0.0.1:0");
	struct rlimit before, none;
	struct listener *l;
	int fds[1], client;
	char error[256];

	cr_assert(listener_bind(&a, fds, 1, true, error, sizeof(error)), "%s", error);
	l = listener_start(loop, fds[0], on_accept, &accepted);
	client = connect_to(&a);
	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &none);
	loop_turn(loop);
	listener_stop(l);
	setrlimit(RLIMIT_NOFILE, &before);
	loop_advance(loop, 1000);
	cr_assert_eq(accepted_n, 0u);
	close(client);
}

Test(listener, without_memory_the_descriptor_stays_the_callers)
{
	struct addr a = at("127.0.0.1:0");
	int fds[1];
	char error[256];

	cr_assert(listener_bind(&a, fds, 1, true, error, sizeof(error)), "%s", error);
	mem_fault_set(1, false);
	cr_assert_null(listener_start(loop, fds[0], on_accept, &accepted));
	mem_fault_set(0, false);
	cr_assert_eq(close(fds[0]), 0);
}
