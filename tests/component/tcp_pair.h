/* Two ends of a TCP connection over loopback, non-blocking; and a peer's simple life. */
#ifndef ADIT_TESTS_TCP_PAIR_H
#define ADIT_TESTS_TCP_PAIR_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

/* small: the least of kernel buffers, so that writing soon blocks */
static inline void tcp_pair(int ends[2], bool small)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), bytes = 4096, on = 1;

	ends[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (small) {
		(void)setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)); /* inherited by ends[0] */
		(void)setsockopt(ends[1], SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	}
	cr_assert(listener >= 0 && ends[1] >= 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&at, n), 0);
	cr_assert_eq(listen(listener, 1), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&at, &n), 0);
	cr_assert_eq(connect(ends[1], (struct sockaddr *)&at, n), 0);
	ends[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	cr_assert_geq(ends[0], 0);
	close(listener);
	for (int i = 0; i < 2; i++) {
		(void)setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		cr_assert_eq(fcntl(ends[i], F_SETFL, O_NONBLOCK), 0);
	}
}

enum peer_saw { PEER_NOTHING, PEER_BYTES, PEER_FIN, PEER_RST };

/* One recv of the far end. */
static inline enum peer_saw peer_read(int fd, char *buf, size_t size, size_t *n)
{
	ssize_t r = recv(fd, buf, size, 0);

	*n = r > 0 ? (size_t)r : 0;
	if (r > 0)
		return PEER_BYTES;
	if (r == 0)
		return PEER_FIN;
	return errno == EAGAIN ? PEER_NOTHING : PEER_RST;
}

static inline void peer_reset(int fd)
{
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(fd);
}

#endif
