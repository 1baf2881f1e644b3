/* What a client may do to the TLS side of a connection: raw bytes from the first one on, or a real client whose records
 * are delayed, cut, damaged and mixed with others; reading, writing and closing of the proxy's side at any moment.
 *
 * What is read is the beginning of what the client wrote and the other way round, whatever happens to the records on
 * their way; a proper end is one that was meant; the handshake is over once; nothing is left in the wire's buffer
 * between callbacks; and in the end nothing is left at all. */
#include "adit/tls/tls_stream.h"

#include "adit/log/log.h"
#include "fuzz/certs.h"
#include "fuzz/script.h"
#include "loop/loop_priv.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>

enum { SAID_MAX = 256 * 1024, WIRE_MAX = 128 * 1024, SCRIPT_MAX = 4096, READ_BYTES = 4096 };

/* One direction of application bytes; the pattern says what byte stands where. */
struct talk {
	size_t said, heard;
	unsigned salt;
};

static struct loop *loop;
static struct tls_context *context;
static struct tls_wire wire;
static SSL_CTX *client_ctx;

static struct {
	int fd; /* the client's end; -1: closed */
	SSL *ssl;
	char out[WIRE_MAX]; /* what the client's side has for the proxy */
	size_t out_n;
	struct talk up, down;
	bool said_goodbye; /* close_notify is among the client's bytes */

	struct stream *stream;
	bool shaken, closing, closed, ended;
	enum reason verdict;
	size_t read_most;
} now;

static char byte_at(const struct talk *t, size_t at)
{
	return (char)(at * 7 + at / 251 + t->salt);
}

static void say(const struct talk *t, char *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = byte_at(t, t->said + i);
}

static void hear(struct talk *t, const char *p, size_t n)
{
	must(t->heard + n <= t->said, "more is heard than was said");
	for (size_t i = 0; i < n; i++)
		must(p[i] == byte_at(t, t->heard + i), "something else is heard than was said");
	t->heard += n;
}

/* --- the proxy's side --- */

static void on_readable(void *ctx)
{
	char buf[READ_BYTES];
	size_t n = 0;

	(void)ctx;
	must(!now.closing && !now.ended, "news after the end");
	switch (stream_read(now.stream, buf, now.read_most, &n)) {
	case STREAM_IO_OK:
		must(n > 0 && n <= now.read_most, "how much was read");
		hear(&now.up, buf, n);
		if (n == now.read_most)
			stream_more(now.stream);
		return;
	case STREAM_IO_AGAIN:
		must(n == 0, "bytes with AGAIN");
		return;
	case STREAM_IO_EOF:
		now.ended = true;
		must(stream_truncated(now.stream) || now.said_goodbye, "a proper end that nobody meant");
		must(stream_truncated(now.stream) || now.up.heard == now.up.said, "a proper end before the last byte");
		stream_pause(now.stream, STREAM_PAUSE_EOF);
		return;
	default:
		must(stream_fault(now.stream) != STREAM_FAULT_NONE, "an error without a fault");
		now.ended = true;
		stream_pause(now.stream, STREAM_PAUSE_EOF);
		return;
	}
}

static void on_drained(void *ctx)
{
	(void)ctx;
	must(!now.closing && stream_queued(now.stream) == 0, "drained");
}

static void on_fault(void *ctx)
{
	(void)ctx;
	must(!now.closing && stream_fault(now.stream) != STREAM_FAULT_NONE, "a fault without a fault");
}

static const struct stream_handler handler = { on_readable, on_drained, on_fault };

static void close_stream(enum stream_close how)
{
	if (now.closing)
		return;
	now.closing = true;
	stream_close(now.stream, how);
}

/* As the connection does. */
static void on_handshake(void *ctx, enum reason verdict)
{
	struct tls_stream_info info;

	(void)ctx;
	must(!now.shaken && !now.closing, "two handshakes");
	now.shaken = true;
	now.verdict = verdict;
	if (verdict == REASON_OK) {
		tls_stream_info(now.stream, &info);
		must(info.version && info.cipher && (info.alpn.n == 0 || info.alpn.p), "what was agreed on");
		stream_attach(now.stream, &handler, NULL);
		stream_secret(now.stream, true);
		stream_resume(now.stream, STREAM_PAUSE_IDLE);
		return;
	}
	must(verdict == REASON_HANDSHAKE_FAILED || verdict == REASON_CLIENT_GONE || verdict == REASON_PLAIN_HTTP ||
	     verdict == REASON_NO_MEMORY, "a verdict");
	must(tls_stream_error(now.stream) != NULL, "no word about it");
	if (verdict == REASON_PLAIN_HTTP)
		tls_stream_plain(now.stream, slice_of("HTTP/1.1 400 Bad Request\r\n\r\n"));
	close_stream(verdict == REASON_CLIENT_GONE ? STREAM_CLOSE_ABORT : STREAM_CLOSE_TRUNCATE);
}

static void on_closed(void *ctx)
{
	(void)ctx;
	now.closed = true;
}

static bool is_open(void)
{
	return now.shaken && now.verdict == REASON_OK && !now.closing;
}

static void proxy_writes(size_t n)
{
	static char buf[READ_BYTES];

	if (!is_open() || now.stream->finishing || stream_queued(now.stream) > 0 || now.down.said + n > SAID_MAX)
		return;
	say(&now.down, buf, n);
	now.down.said += n;
	(void)!stream_write(now.stream, buf, n);
}

static void proxy_writes_corked(size_t n)
{
	if (!is_open())
		return;
	stream_cork(now.stream, true);
	proxy_writes(n);
	if (stream_fault(now.stream) == STREAM_FAULT_NONE)
		proxy_writes(n / 2 + 1);
	stream_cork(now.stream, false);
}

/* --- the client's side --- */

static void client_out(const void *p, size_t n)
{
	if (n > WIRE_MAX - now.out_n)
		n = WIRE_MAX - now.out_n;
	if (n > 0)
		memcpy(now.out + now.out_n, p, n);
	now.out_n += n;
}

static void collect(void)
{
	char buf[READ_BYTES];
	int n;

	ERR_clear_error();
	while (WIRE_MAX - now.out_n >= sizeof(buf) && (n = BIO_read(SSL_get_wbio(now.ssl), buf, sizeof(buf))) > 0)
		client_out(buf, (size_t)n);
}

/* At most n bytes go to the proxy. */
static void client_sends(size_t n)
{
	ssize_t r;

	collect();
	if (n > now.out_n)
		n = now.out_n;
	if (n == 0 || now.fd < 0)
		return;
	r = send(now.fd, now.out, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r <= 0)
		return;
	memmove(now.out, now.out + r, now.out_n - (size_t)r);
	now.out_n -= (size_t)r;
}

static void client_receives(size_t most)
{
	char buf[READ_BYTES];
	ssize_t r;
	int n;

	if (now.fd < 0)
		return;
	r = recv(now.fd, buf, most < sizeof(buf) ? most : sizeof(buf), MSG_DONTWAIT);
	if (r > 0)
		(void)BIO_write(SSL_get_rbio(now.ssl), buf, (int)r);
	ERR_clear_error();
	while ((n = SSL_read(now.ssl, buf, sizeof(buf))) > 0)
		hear(&now.down, buf, (size_t)n);
	ERR_clear_error();
}

static void client_writes(size_t n)
{
	char buf[READ_BYTES];
	int r;

	if (now.said_goodbye || now.up.said + n > SAID_MAX)
		return;
	say(&now.up, buf, n);
	ERR_clear_error();
	r = SSL_write(now.ssl, buf, (int)n);
	if (r > 0)
		now.up.said += (size_t)r;
	ERR_clear_error();
}

static void client_ends(void)
{
	ERR_clear_error();
	/* counted when it goes into the wire, which a shutdown amidst a handshake does not */
	if (SSL_is_init_finished(now.ssl) && SSL_shutdown(now.ssl) >= 0)
		now.said_goodbye = true;
	ERR_clear_error();
}

static void client_goes(bool reset)
{
	struct linger at_once = { .l_onoff = 1 };

	if (now.fd < 0)
		return;
	if (!reset) {
		shutdown(now.fd, SHUT_WR);
		return;
	}
	(void)setsockopt(now.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(now.fd); /* with unread bytes, this is a reset on a pair of sockets */
	now.fd = -1;
}

/* Whatever it takes, both ways. */
static void shake(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		ERR_clear_error();
		(void)SSL_do_handshake(now.ssl);
		client_sends(WIRE_MAX);
		loop_turn(loop);
		client_receives(READ_BYTES);
	}
}

/* --- the script --- */

static size_t size_of(unsigned digit)
{
	static const size_t sizes[] = { 1, 2, 4, 5, 6, 17, 64, 255, 512, 1024, 1500, 2048, 3000, 4000, 4095, 4096 };

	return sizes[digit & 15];
}

static void damage(unsigned where, unsigned how)
{
	collect();
	if (now.out_n > 0)
		now.out[where % now.out_n] ^= (char)(how | 1);
}

static void step(struct script *s)
{
	static const unsigned times[] = { 1, 100, 1000, 2000, 10000, 60000, 3600000, 10 };
	unsigned letter = script_byte(s);
	const uint8_t *p;
	size_t n;

	switch (letter & 0x1f) {
	case 'b' & 0x1f: proxy_writes_corked(size_of(script_digit(s))); break;
	case 'c' & 0x1f: close_stream((enum stream_close)(script_digit(s) % 3)); break;
	case 'd' & 0x1f: damage(script_byte(s), script_byte(s)); break;
	case 'e' & 0x1f: client_ends(); break;
	case 'f' & 0x1f:
		if (is_open())
			stream_finish(now.stream);
		break;
	case 'h' & 0x1f: shake(script_digit(s) & 3); break;
	case 'i' & 0x1f:
		n = script_take(s, script_byte(s), &p);
		client_out(p, n);
		break;
	case 'k' & 0x1f: (void)SSL_key_update(now.ssl, script_digit(s) & 1 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED); break;
	case 'n' & 0x1f: (void)SSL_renegotiate(now.ssl); break;
	case 'p' & 0x1f:
		if (is_open() && !now.ended)
			stream_pause(now.stream, STREAM_PAUSE_PEER_FULL);
		break;
	case 'q' & 0x1f:
		if (is_open() && !now.ended)
			stream_resume(now.stream, STREAM_PAUSE_PEER_FULL);
		break;
	case 'r' & 0x1f: client_receives(size_of(script_digit(s))); break;
	case 's' & 0x1f: client_sends(size_of(script_digit(s))); break;
	case 't' & 0x1f: loop_advance(loop, times[script_digit(s) & 7]); break;
	case 'u' & 0x1f:
		if (is_open()) {
			stream_secret(now.stream, script_digit(s) & 1);
			stream_ahead(now.stream, script_digit(s) & 1);
		}
		break;
	case 'v' & 0x1f: client_sends(WIRE_MAX); break;
	case 'w' & 0x1f: client_writes(size_of(script_digit(s))); break;
	case 'x' & 0x1f: client_goes(script_digit(s) & 1); break;
	case 'y' & 0x1f: proxy_writes(size_of(script_digit(s))); break;
	default: break;
	}
	ERR_clear_error();
	if (letter & 0x20)
		loop_turn(loop);
	must(wire.used == 0, "bytes left in the wire's buffer");
}

static void init(void)
{
	char chain[32], key_path[32], error[256];
	const struct conf_option options[] = { { "tls.certificates.chain", chain }, { "tls.certificates.key", key_path } };
	struct conf_errors errors = { 0 };
	struct tls_tickets *tickets;
	struct conf *conf;
	EVP_PKEY *key;

	if (loop)
		return;
	(void)signal(SIGPIPE, SIG_IGN); /* as the server does */
	loop = loop_new_manual();
	key = EVP_EC_gen("P-256");
	must(loop && key, "out of memory");
	certs_put_self_signed(certs_file(chain), key, "a.test");
	certs_put_key(certs_file(key_path), key);
	EVP_PKEY_free(key);
	conf = conf_load(NULL, options, 2, &errors);
	must(conf != NULL, "a configuration");
	tickets = tls_tickets_new(NULL, conf->tls.ticket_lifetime_ms, error, sizeof(error));
	context = tls_context_new(conf, NULL, tickets, &errors);
	client_ctx = SSL_CTX_new(TLS_client_method());
	must(tickets && context && client_ctx, "contexts");
	tls_tickets_unref(tickets);
	conf_unref(conf);
	log_set_level(LOG_LEVEL_ERR);
}

static void start(unsigned flags)
{
	static const unsigned char alpn[] = "\x02h2\x08http/1.1";
	int ends[2], small = 4096;

	now.out_n = 0;
	now.up = (struct talk){ .salt = 1 };
	now.down = (struct talk){ .salt = 2 };
	now.said_goodbye = now.shaken = now.closing = now.closed = now.ended = false;
	now.read_most = flags & 1 ? 7 : READ_BYTES;
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0, "sockets");
	if (flags & 2)
		(void)setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	now.fd = ends[0];
	now.ssl = SSL_new(client_ctx);
	must(now.ssl != NULL, "out of memory");
	SSL_set_bio(now.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_set_connect_state(now.ssl);
	if (flags & 4)
		(void)SSL_set_max_proto_version(now.ssl, TLS1_2_VERSION);
	if (flags & 8) {
		(void)SSL_set_tlsext_host_name(now.ssl, "a.test");
		(void)SSL_set_alpn_protos(now.ssl, alpn, sizeof(alpn) - 1);
	}
	now.stream = tls_stream_accept(loop, ends[1], context, &wire, TLS_HTTP2_FIRST, 2000, on_handshake, NULL);
	must(now.stream != NULL, "out of memory");
	stream_on_closed(now.stream, on_closed, NULL);
}

/* A digit of flags, then what happens. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, data + size };

	if (size > SCRIPT_MAX)
		return 0;
	init();
	start(script_digit(&s));
	while (s.at < s.end && !now.closed)
		step(&s);
	close_stream(STREAM_CLOSE_FLUSH);
	client_goes(true);
	loop_turn(loop);
	loop_advance(loop, 2000);
	must(now.closed, "a stream that does not end");
	must(loop_held(loop) == 0 && TAILQ_EMPTY(&loop->manual_deadlines) && TAILQ_EMPTY(&loop->tasks), "the loop is not idle");
	must(ERR_peek_error() == 0, "errors are left in OpenSSL's queue");
	SSL_free(now.ssl);
	return 0;
}
