/* A way that takes time, for machines whose kernel cannot delay packets itself.
 *
 *     delay link NAMESPACE NAMESPACE MS [MIB]   two network namespaces (ip netns add), joined by a TUN device "delayed" in
 *                                               each; whoever starts it gives the devices their addresses. Needs root.
 *     delay relay HOST PORT HOST PORT MS [MIB]  TCP: whoever connects to the first is connected to the second
 *
 * Everything is handed over MS milliseconds after it came, each way. What waits is bounded (64 MiB each way): then the
 * link drops packets, and the relay stops reading. Both kernels see the link's delay as their round trip (TCP_INFO);
 * the relay, like a balancer, hides it from them. Says "ready", and ends when its stdin ends.
 *
 * The link's MTU is 1500, but packets cross in the bundles that the kernel makes and takes for devices which cut
 * segments themselves (virtio headers, TUN_F_TSO4), 64 KiB at a time. So TCP counts in ordinary segments, and a core
 * carries more than 10 Gbit/s. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	PIECE_MAX = 65536 + 64, /* a bundle with its headers */
	BATCH = 64, /* read before those that are due are looked at again */
	MIB = 1 << 20,
};

/* What waits: pieces one behind the other in a ring, each in one part; a piece that does not fit before the ring's end
 * begins at its start. Offsets only grow. */
struct piece {
	uint64_t due_ns;
	uint32_t bytes; /* 0: the end of the stream; SKIP: the rest of the ring is not used */
	uint32_t sent;
};
#define SKIP UINT32_MAX

/* One direction. */
struct lane {
	int from, to;
	bool packets; /* whole or not at all; else a stream of bytes with an end */
	uint64_t delay_ns;
	char *ring;
	size_t ring_bytes, in, out;
	bool ended;
	atomic_ulong dropped;
};

struct pair { /* a relayed connection: freed by the lane that ends last */
	struct lane lanes[2];
	atomic_int left;
};

struct half {
	struct pair *pair;
	int which;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool lane_init(struct lane *lane, int from, int to, bool packets, uint64_t delay_ns, size_t ring_bytes)
{
	lane->from = from;
	lane->to = to;
	lane->packets = packets;
	lane->delay_ns = delay_ns;
	lane->ring_bytes = ring_bytes;
	lane->ring = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return lane->ring != MAP_FAILED;
}

/* --- the ring --- */

static size_t piece_span(size_t bytes)
{
	return (sizeof(struct piece) + bytes + 15) / 16 * 16;
}

static struct piece *piece_at(const struct lane *lane, size_t offset)
{
	return (struct piece *)(void *)(lane->ring + offset % lane->ring_bytes);
}

/* Room for the largest piece, in one part; NULL: full. */
static struct piece *ring_reserve(struct lane *lane)
{
	size_t want = piece_span(PIECE_MAX), left = lane->ring_bytes - lane->in % lane->ring_bytes;

	if (left < want) {
		if (lane->in + left + want - lane->out > lane->ring_bytes)
			return NULL;
		piece_at(lane, lane->in)->bytes = SKIP;
		lane->in += left;
	}
	return lane->in + want - lane->out > lane->ring_bytes ? NULL : piece_at(lane, lane->in);
}

static struct piece *ring_first(struct lane *lane)
{
	if (lane->out != lane->in && piece_at(lane, lane->out)->bytes == SKIP)
		lane->out += lane->ring_bytes - lane->out % lane->ring_bytes;
	return lane->out == lane->in ? NULL : piece_at(lane, lane->out);
}

/* --- one direction --- */

/* False: the other end is gone. */
static bool take(struct lane *lane)
{
	static _Thread_local char bin[PIECE_MAX];

	for (int i = 0; i < BATCH; i++) {
		struct piece *piece = ring_reserve(lane);
		char *room = piece != NULL ? (char *)(piece + 1) : bin;
		ssize_t n;

		if (piece == NULL && !lane->packets)
			return true;
		n = read(lane->from, room, PIECE_MAX);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (piece == NULL) {
			(void)atomic_fetch_add(&lane->dropped, 1);
			continue;
		}
		piece->due_ns = now_ns() + lane->delay_ns;
		piece->bytes = (uint32_t)n;
		piece->sent = 0;
		lane->in += piece_span((size_t)n);
		if (n == 0) {
			lane->ended = true;
			return true;
		}
	}
	return true;
}

enum give { GIVE_LATER, GIVE_BLOCKED, GIVE_END };

/* Hands over what is due; *wait: until the next is. */
static enum give give(struct lane *lane, uint64_t *wait)
{
	struct piece *piece;
	uint64_t now = now_ns();

	*wait = UINT64_MAX;
	while ((piece = ring_first(lane)) != NULL) {
		const char *bytes = (const char *)(piece + 1);
		ssize_t n;

		if (piece->due_ns > now && piece->due_ns > (now = now_ns())) {
			*wait = piece->due_ns - now;
			return GIVE_LATER;
		}
		if (piece->bytes == 0) {
			(void)shutdown(lane->to, SHUT_WR);
			return GIVE_END;
		}
		n = write(lane->to, bytes + piece->sent, piece->bytes - piece->sent);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return GIVE_BLOCKED;
		if (n < 0 && !lane->packets)
			return GIVE_END;
		if (n < 0)
			(void)atomic_fetch_add(&lane->dropped, 1);
		else
			piece->sent += (uint32_t)n;
		if (n < 0 || piece->sent == piece->bytes)
			lane->out += piece_span(piece->bytes);
	}
	return GIVE_LATER;
}

/* Until the stream has ended and its end was handed over; of packets there is no end. */
static void carry(struct lane *lane)
{
	for (;;) {
		uint64_t wait;
		enum give gave = give(lane, &wait);
		struct pollfd fds[2] = { { lane->from, POLLIN, 0 }, { gave == GIVE_BLOCKED ? lane->to : -1, POLLOUT, 0 } };
		struct timespec t = { (time_t)(wait / 1000000000u), (long)(wait % 1000000000u) };

		if (gave == GIVE_END)
			return;
		if (lane->ended || (!lane->packets && ring_reserve(lane) == NULL))
			fds[0].fd = -1;
		if (ppoll(fds, 2, wait == UINT64_MAX ? NULL : &t, NULL) < 0 && errno != EINTR)
			die("ppoll");
		if (fds[0].fd >= 0 && fds[0].revents != 0 && !take(lane))
			return;
		if (fds[1].revents & (POLLERR | POLLHUP))
			return;
	}
}

static void *carry_packets(void *lane)
{
	(void)prctl(PR_SET_TIMERSLACK, 1UL);
	carry(lane);
	return NULL;
}

static void *carry_stream(void *arg)
{
	struct half *half = arg;
	struct pair *pair = half->pair;
	struct lane *lane = &pair->lanes[half->which];

	free(half);
	(void)prctl(PR_SET_TIMERSLACK, 1UL);
	carry(lane);
	if (!lane->ended) { /* broken: so is the other direction */
		(void)shutdown(lane->from, SHUT_RDWR);
		(void)shutdown(lane->to, SHUT_RDWR);
	}
	if (atomic_fetch_sub(&pair->left, 1) == 1) {
		(void)close(lane->from);
		(void)close(lane->to);
		for (int i = 0; i < 2; i++)
			(void)munmap(pair->lanes[i].ring, pair->lanes[i].ring_bytes);
		free(pair);
	}
	return NULL;
}

/* --- the two kinds --- */

/* Stays in the namespace: only the descriptor matters afterwards. */
static int open_tun(const char *namespace)
{
	struct ifreq ifr = { .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR };
	char path[256];
	int ns, fd;

	(void)snprintf(path, sizeof path, "/run/netns/%s", namespace);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		die(path);
	(void)close(ns);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		die("/dev/net/tun");
	(void)snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "delayed");
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		die("TUNSETIFF");
	if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0)
		die("TUNSETOFFLOAD");
	return fd;
}

static void start(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, arg) != 0)
		die("pthread_create");
	(void)pthread_detach(thread);
}

static void ready_until_stdin_ends(const struct lane *lanes)
{
	char bin[256];

	(void)puts("ready");
	(void)fflush(stdout);
	while (read(STDIN_FILENO, bin, sizeof bin) > 0)
		;
	if (lanes != NULL)
		(void)fprintf(stderr, "delay: dropped %lu and %lu packets\n", atomic_load(&lanes[0].dropped),
			atomic_load(&lanes[1].dropped));
	exit(0);
}

static void link_namespaces(const char *one, const char *other, uint64_t delay_ns, size_t ring_bytes)
{
	static struct lane lanes[2];
	int a = open_tun(one), b = open_tun(other);

	if (!lane_init(&lanes[0], a, b, true, delay_ns, ring_bytes) || !lane_init(&lanes[1], b, a, true, delay_ns, ring_bytes))
		die("mmap");
	start(carry_packets, &lanes[0]);
	start(carry_packets, &lanes[1]);
	ready_until_stdin_ends(lanes);
}

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10)) };

	if (inet_pton(AF_INET, host, &sin.sin_addr) != 1) {
		(void)fprintf(stderr, "delay: %s is no IPv4 address\n", host);
		exit(2);
	}
	return sin;
}

struct relay {
	int listener;
	struct sockaddr_in target;
	uint64_t delay_ns;
	size_t ring_bytes;
};

static void relay_one(const struct relay *relay, int client)
{
	struct pair *pair = calloc(1, sizeof *pair);
	int target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	if (pair == NULL || target < 0 ||
		connect(target, (const struct sockaddr *)&relay->target, sizeof relay->target) < 0 ||
		!lane_init(&pair->lanes[0], client, target, false, relay->delay_ns, relay->ring_bytes) ||
		!lane_init(&pair->lanes[1], target, client, false, relay->delay_ns, relay->ring_bytes)) {
		perror("delay: relay");
		(void)close(client);
		(void)close(target);
		free(pair);
		return;
	}
	for (int i = 0; i < 2; i++) {
		(void)setsockopt(pair->lanes[i].to, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		(void)fcntl(pair->lanes[i].to, F_SETFL, O_NONBLOCK);
	}
	atomic_store(&pair->left, 2);
	for (int i = 0; i < 2; i++) {
		struct half *half = malloc(sizeof *half);

		if (half == NULL)
			die("malloc");
		*half = (struct half){ pair, i };
		start(carry_stream, half);
	}
}

static void *accept_all(void *arg)
{
	const struct relay *relay = arg;
	int client;

	while ((client = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		relay_one(relay, client);
	die("accept");
	return NULL;
}

static void relay_streams(struct sockaddr_in own, struct sockaddr_in target, uint64_t delay_ns, size_t ring_bytes)
{
	static struct relay relay;
	int on = 1;

	relay = (struct relay){ socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), target, delay_ns, ring_bytes };
	(void)setsockopt(relay.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(relay.listener, (const struct sockaddr *)&own, sizeof own) < 0 || listen(relay.listener, 128) < 0)
		die("listen");
	start(accept_all, &relay);
	ready_until_stdin_ends(NULL);
}

static uint64_t milliseconds(const char *text)
{
	return (uint64_t)(strtod(text, NULL) * 1e6);
}

static size_t mebibytes(const char *text)
{
	size_t n = text != NULL ? strtoul(text, NULL, 10) : 64;

	return (n == 0 ? 1 : n) * MIB;
}

int main(int argc, char **argv)
{
	if ((argc == 5 || argc == 6) && strcmp(argv[1], "link") == 0)
		link_namespaces(argv[2], argv[3], milliseconds(argv[4]), mebibytes(argv[5]));
	else if ((argc == 7 || argc == 8) && strcmp(argv[1], "relay") == 0)
		relay_streams(address(argv[2], argv[3]), address(argv[4], argv[5]), milliseconds(argv[6]), mebibytes(argv[7]));
	(void)fprintf(stderr, "usage: delay link NAMESPACE NAMESPACE MS [MIB]\n"
		"       delay relay HOST PORT HOST PORT MS [MIB]\n");
	return 2;
}
