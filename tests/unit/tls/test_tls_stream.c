/* TLS streams with an OpenSSL client on the other end of a loopback connection, all in one loop. */
#include "adit/tls/tls_stream.h"

#include "adit/base/mem.h"
#include "component/tcp_pair.h"
#include "component/turning.h"
#include "unit/tls/pki.h"

#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

enum { LINGER_MS = 2000, MUCH = 1024 * 1024, CHUNK = 64 * 1024 };

static struct loop *loop;
static struct tls_context *context;
static struct tls_wire wire;
static unsigned descriptors;

static struct stream *s; /* NULL once closed */
static int server_fd, fd; /* fd: the client's */
static SSL_CTX *client_ctx;
static SSL *client;

static struct seen {
	unsigned verdicts, readable, drained, faults, closed;
	enum reason verdict;
	char error[128];
	unsigned char *bytes;
	size_t n;
	size_t most; /* one stream_read a callback of at most so many; 0: read all there is */
	bool eof, truncated, broken;
	enum stream_fault fault;
	char close_in; /* 'h'andshake, 'r'eadable, 'd'rained */
	enum stream_close how;
} seen;

static unsigned char byte_at(size_t i)
{
	return (unsigned char)(i % 251);
}

static void close_stream(enum stream_close how)
{
	stream_close(s, how);
	s = NULL;
}

static void on_readable(void *ctx)
{
	size_t n;
	enum stream_io io;

	(void)ctx;
	seen.readable++;
	if (seen.close_in == 'r') {
		close_stream(seen.how);
		return;
	}
	do {
		io = stream_read(s, seen.bytes + seen.n, seen.most ? seen.most : CHUNK, &n);
		seen.n += n;
		cr_assert_leq(seen.n, (size_t)4 * MUCH);
	} while (io == STREAM_IO_OK && !seen.most);
	if (io == STREAM_IO_OK && n == seen.most)
		stream_more(s);
	if (io == STREAM_IO_EOF || io == STREAM_IO_ERROR) {
		seen.eof = io == STREAM_IO_EOF;
		seen.truncated = stream_truncated(s);
		seen.broken = io == STREAM_IO_ERROR;
		seen.fault = stream_fault(s);
		stream_pause(s, STREAM_PAUSE_EOF);
	}
}

static void on_drained(void *ctx)
{
	(void)ctx;
	seen.drained++;
	cr_assert_eq(stream_queued(s), 0u);
	if (seen.close_in == 'd')
		close_stream(seen.how);
}

static void on_fault(void *ctx)
{
	(void)ctx;
	seen.faults++;
	seen.fault = stream_fault(s);
}

static const struct stream_handler handler = { on_readable, on_drained, on_fault };

static void on_closed(void *ctx)
{
	(void)ctx;
	seen.closed++;
}

static void on_handshake(void *ctx, enum reason verdict)
{
	cr_assert_eq(ctx, &seen);
	seen.verdicts++;
	seen.verdict = verdict;
	snprintf(seen.error, sizeof(seen.error), "%s", tls_stream_error(s));
	if (seen.close_in == 'h')
		close_stream(seen.how);
	else if (verdict == REASON_OK)
		stream_attach(s, &handler, NULL);
}

static void make_context(void)
{
	static char chain[PKI_PATH_SIZE], key[PKI_PATH_SIZE];
	static struct conf_certificate certificate = { .chain = chain, .key = key };
	struct conf conf = { .tls = { .certificates = &certificate, .certificate_count = 1, .ticket_lifetime_ms = 3600000 } };
	struct conf_errors errors = { 0 };
	struct tls_tickets *tickets = tls_tickets_new(NULL, 3600000, seen.error, sizeof(seen.error));

	cr_assert_not_null(tickets);
	pki_make("a", "P-256", "DNS:proxy.test");
	pki_path(chain, "a.crt");
	pki_path(key, "a.key");
	context = tls_context_new(&conf, NULL, tickets, &errors);
	cr_assert_not_null(context);
	tls_tickets_unref(tickets);
}

/* A connection: the server's stream, the client's socket without TLS so far. */
static void connect_raw(bool small)
{
	int ends[2];

	free(seen.bytes);
	seen = (struct seen){ .bytes = malloc((size_t)5 * MUCH) };
	tcp_pair(ends, small);
	server_fd = ends[0];
	fd = ends[1];
	s = tls_stream_accept(loop, server_fd, context, &wire, TLS_HTTP2_FIRST, LINGER_MS, on_handshake, &seen);
	cr_assert_not_null(s);
	stream_on_closed(s, on_closed, NULL);
}

static void connect_client(int version, bool small)
{
	connect_raw(small);
	client_ctx = SSL_CTX_new(TLS_client_method());
	cr_assert(SSL_CTX_set_min_proto_version(client_ctx, version) && SSL_CTX_set_max_proto_version(client_ctx, version));
	client = SSL_new(client_ctx);
	cr_assert(client && SSL_set_fd(client, fd) && SSL_set_tlsext_host_name(client, "proxy.test"));
	cr_assert_eq(SSL_set_alpn_protos(client, (const unsigned char *)"\x8http/1.1", 9), 0);
	SSL_set_mode(client, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_set_connect_state(client);
}

static void drop_client(void)
{
	SSL_free(client);
	SSL_CTX_free(client_ctx);
	client = NULL;
	client_ctx = NULL;
	if (fd >= 0)
		close(fd);
	fd = -1;
}

static void begin(int version, bool small)
{
	bool done = false;

	connect_client(version, small);
	for (unsigned i = 0; i < 20000 && !(done && seen.verdicts > 0); i++) {
		if (!done)
			done = SSL_do_handshake(client) == 1;
		loop_turn(loop);
		if (!done)
			poll(NULL, 0, 1);
	}
	cr_assert(done && seen.verdicts == 1 && seen.verdict == REASON_OK, "%s", seen.error);
}

/* Both ends go, and nothing of them is left. */
static void end(void)
{
	if (s)
		close_stream(STREAM_CLOSE_ABORT);
	drop_client();
	UNTIL(loop, seen.closed == 1);
	loop_turn(loop);
	cr_assert_eq(loop_held(loop), 0u);
	cr_assert_eq(wire.used, 0u, "bytes are left in the worker's buffer");
	cr_assert_eq(ERR_peek_error(), 0ul);
	cr_assert_eq(open_descriptors(), descriptors);
}

static void setup(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	pki_setup();
	make_context();
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	descriptors = open_descriptors();
}

static void teardown(void)
{
	loop_free(loop);
	tls_context_unref(context);
	free(seen.bytes);
	pki_teardown();
}

TestSuite(tls_stream, .init = setup, .fini = teardown, .timeout = 120);

static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
#define EACH_VERSION(v) for (const int *v = versions; v < versions + 2; v++)

/* --- what the client does --- */

enum client_saw { CLIENT_NOTHING, CLIENT_BYTES, CLIENT_NOTIFY, CLIENT_FIN, CLIENT_RST };

static size_t client_got;

static enum client_saw client_read_once(void)
{
	unsigned char buf[4096];
	size_t n;

	ERR_clear_error();
	if (SSL_read_ex(client, buf, sizeof(buf), &n) == 1) {
		for (size_t i = 0; i < n; i++)
			cr_assert_eq(buf[i], byte_at(client_got + i));
		client_got += n;
		return CLIENT_BYTES;
	}
	switch (SSL_get_error(client, 0)) {
	case SSL_ERROR_WANT_READ:
		return CLIENT_NOTHING;
	case SSL_ERROR_ZERO_RETURN:
		return CLIENT_NOTIFY;
	default: {
		bool fin = ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;

		ERR_clear_error();
		return fin ? CLIENT_FIN : CLIENT_RST;
	}
	}
}

/* Reads until n bytes are there or the end. */
static enum client_saw client_takes(size_t n)
{
	enum client_saw saw = CLIENT_NOTHING;

	for (unsigned idle = 0; client_got < n && idle < 20000;) {
		saw = client_read_once();
		if (saw > CLIENT_BYTES)
			return saw;
		loop_turn(loop);
		if (saw == CLIENT_NOTHING) {
			idle++;
			poll(NULL, 0, 1);
		}
	}
	return saw;
}

static void client_sends(size_t n)
{
	unsigned char *p = malloc(n);
	size_t sent = 0, r;

	for (size_t i = 0; i < n; i++)
		p[i] = byte_at(i);
	for (unsigned i = 0; sent < n && i < 200000; i++) {
		if (SSL_write_ex(client, p + sent, n - sent, &r) == 1)
			sent += r;
		else
			cr_assert_eq(SSL_get_error(client, 0), SSL_ERROR_WANT_WRITE);
		loop_turn(loop);
	}
	cr_assert_eq(sent, n);
	free(p);
}

static void server_sends(size_t n)
{
	unsigned char *p = malloc(CHUNK);

	for (size_t at = 0; at < n; at += CHUNK) {
		size_t m = n - at < CHUNK ? n - at : CHUNK;

		for (size_t i = 0; i < m; i++)
			p[i] = byte_at(at + i);
		cr_assert(stream_write(s, p, m));
	}
	free(p);
}

static bool received(size_t n)
{
	if (seen.n != n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (seen.bytes[i] != byte_at(i))
			return false;
	return true;
}

/* --- handshakes --- */

Test(tls_stream, shakes_hands_and_says_what_was_agreed_on)
{
	EACH_VERSION(v) {
		struct tls_stream_info info;

		begin(*v, false);
		tls_stream_info(s, &info);
		cr_assert_str_eq(info.version, *v == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3");
		cr_assert_str_eq(info.cipher, SSL_get_cipher_name(client));
		cr_assert_str_eq(info.sni, "proxy.test");
		cr_assert(slice_eq(info.alpn, slice_of("http/1.1")));
		cr_assert_not(info.resumed);
		cr_assert_str_eq(tls_stream_error(s), "");
		end();
	}
}

static void client_says(const char *text, size_t n)
{
	cr_assert_eq(send(fd, text, n, MSG_NOSIGNAL), (ssize_t)n);
}

Test(tls_stream, plain_http_is_told_and_can_be_answered_in_the_clear)
{
	static const char *const heads[] = { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT a:443 HTTP/1.1\r\n\r\n" };

	for (size_t i = 0; i < 2; i++) {
		char buf[64];
		size_t n;

		connect_raw(false);
		client_says(heads[i], strlen(heads[i]));
		UNTIL(loop, seen.verdicts == 1);
		cr_assert_eq(seen.verdict, REASON_PLAIN_HTTP);
		tls_stream_plain(s, slice_of("plain words"));
		close_stream(STREAM_CLOSE_TRUNCATE);
		loop_turn(loop);
		cr_assert_eq(peer_read(fd, buf, sizeof(buf), &n), PEER_BYTES);
		cr_assert(n == 11 && memcmp(buf, "plain words", 11) == 0, "nothing but the answer: %zu bytes", n);
		cr_assert_eq(peer_read(fd, buf, sizeof(buf), &n), PEER_FIN);
		end();
	}
}

Test(tls_stream, garbage_fails_with_an_error_of_openssls)
{
	static const char garbage[] = "\x16\x03\x01\x00\x05hello and more of it";

	connect_raw(false);
	client_says(garbage, sizeof(garbage) - 1);
	UNTIL(loop, seen.verdicts == 1);
	cr_assert_eq(seen.verdict, REASON_HANDSHAKE_FAILED);
	cr_assert_str_neq(seen.error, "");
	close_stream(STREAM_CLOSE_TRUNCATE);
	end();
	connect_raw(false);
	client_says("\x80garbage without any sense", 25);
	UNTIL(loop, seen.verdicts == 1);
	cr_assert_eq(seen.verdict, REASON_HANDSHAKE_FAILED);
	end();
}

Test(tls_stream, a_client_that_leaves_is_gone)
{
	static const size_t said[] = { 0, 1, 5, 11 };

	for (size_t i = 0; i < 2 * sizeof(said) / sizeof(said[0]); i++) {
		connect_raw(false);
		if (said[i / 2] > 0)
			client_says("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", said[i / 2]);
		loop_turn(loop);
		cr_assert_eq(seen.verdicts, 0u);
		if (i % 2) {
			peer_reset(fd);
			fd = -1;
		} else {
			shutdown(fd, SHUT_WR);
		}
		UNTIL(loop, seen.verdicts == 1);
		cr_assert_eq(seen.verdict, REASON_CLIENT_GONE, "%s", reason_name(seen.verdict));
		end();
	}
}

Test(tls_stream, a_silent_client_is_waited_for_and_can_be_closed)
{
	for (int how = STREAM_CLOSE_FLUSH; how <= STREAM_CLOSE_ABORT; how++) {
		connect_raw(false);
		loop_advance(loop, 3600 * 1000);
		cr_assert_eq(seen.verdicts, 0u);
		close_stream((enum stream_close)how);
		end();
		cr_assert_eq(seen.verdicts, 0u);
	}
}

/* After each flight of the client. */
Test(tls_stream, may_be_closed_at_any_point_of_the_handshake)
{
	EACH_VERSION(v) {
		for (unsigned flights = 0; flights < 4; flights++) {
			for (int how = STREAM_CLOSE_FLUSH; how <= STREAM_CLOSE_ABORT; how++) {
				connect_client(*v, false);
				for (unsigned i = 0; i < flights; i++) {
					(void)SSL_do_handshake(client);
					loop_turn(loop);
				}
				ERR_clear_error();
				close_stream((enum stream_close)how);
				end();
			}
		}
	}
}

/* --- bytes --- */

Test(tls_stream, large_writes_arrive_whole_at_a_slow_reader)
{
	EACH_VERSION(v) {
		begin(*v, true);
		client_got = 0;
		server_sends(2 * MUCH);
		cr_assert_gt(stream_queued(s), (size_t)MUCH);
		client_takes(2 * MUCH);
		cr_assert_eq(client_got, (size_t)2 * MUCH);
		UNTIL(loop, seen.drained == 1);
		end();
	}
}

Test(tls_stream, large_reads_arrive_whole)
{
	static const size_t most[] = { 0, 1, 1000, 16384, 16385 };

	EACH_VERSION(v) {
		for (size_t i = 0; i < sizeof(most) / sizeof(most[0]); i++) {
			size_t n = most[i] == 1 ? 20000 : MUCH;

			begin(*v, true);
			seen.most = most[i];
			stream_resume(s, STREAM_PAUSE_IDLE);
			client_sends(n);
			UNTIL(loop, seen.n >= n);
			cr_assert(received(n));
			end();
		}
	}
}

/* Corked writes leave together, each in a record of its own. */
Test(tls_stream, a_cork_holds_writes_and_keeps_them_apart)
{
	EACH_VERSION(v) {
		unsigned char buf[4096], piece[10];
		size_t n;
		char byte;

		begin(*v, false);
		ERR_clear_error();
		while (SSL_read_ex(client, buf, sizeof(buf), &n) == 1)
			cr_assert(false, "nothing was written");
		ERR_clear_error();
		stream_cork(s, true);
		for (size_t i = 0; i < 3; i++) {
			memset(piece, 'a' + (int)i, sizeof(piece));
			cr_assert(stream_write(s, piece, sizeof(piece)));
		}
		loop_turn(loop);
		cr_assert_lt(recv(fd, &byte, 1, MSG_PEEK), 0, "it has left already");
		stream_cork(s, false);
		for (size_t i = 0; i < 3; i++) {
			UNTIL(loop, SSL_read_ex(client, buf, sizeof(buf), &n) == 1);
			cr_assert_eq(n, sizeof(piece), "record %zu has %zu bytes", i, n);
			cr_assert_eq(buf[0], 'a' + (int)i);
		}
		ERR_clear_error();
		end();
	}
}

Test(tls_stream, corked_writes_may_be_more_than_the_wire_holds)
{
	EACH_VERSION(v) {
		begin(*v, true);
		client_got = 0;
		stream_cork(s, true);
		server_sends(MUCH);
		stream_cork(s, false);
		client_takes(MUCH);
		cr_assert_eq(client_got, (size_t)MUCH);
		end();
	}
}

/* What OpenSSL holds is announced by no descriptor. */
Test(tls_stream, what_openssl_holds_is_told_after_a_pause)
{
	EACH_VERSION(v) {
		begin(*v, false);
		seen.most = 10;
		client_sends(30);
		stream_resume(s, STREAM_PAUSE_IDLE);
		for (unsigned i = 0; i < 3; i++) {
			UNTIL(loop, seen.n >= 10 * (i + 1));
			stream_pause(s, STREAM_PAUSE_PEER_FULL);
			loop_turn(loop);
			stream_resume(s, STREAM_PAUSE_PEER_FULL);
		}
		cr_assert(received(30));
		end();
	}
}

Test(tls_stream, bytes_and_the_end_in_one_read_are_both_told)
{
	EACH_VERSION(v) {
		begin(*v, false);
		client_sends(100);
		SSL_shutdown(client);
		shutdown(fd, SHUT_WR);
		poll(NULL, 0, 5);
		seen.most = 1000;
		stream_resume(s, STREAM_PAUSE_IDLE);
		UNTIL(loop, seen.eof);
		cr_assert(received(100));
		cr_assert_not(seen.truncated);
		end();
	}
}

/* --- ends --- */

Test(tls_stream, both_ends_of_the_client_leave_writing_alive)
{
	EACH_VERSION(v) {
		for (int proper = 0; proper <= 1; proper++) {
			begin(*v, true);
			client_got = 0;
			stream_resume(s, STREAM_PAUSE_IDLE);
			client_sends(1000);
			if (proper)
				cr_assert_eq(SSL_shutdown(client), 0);
			shutdown(fd, SHUT_WR);
			UNTIL(loop, seen.eof);
			cr_assert(received(1000));
			cr_assert_eq(seen.truncated, !proper);
			server_sends(MUCH);
			stream_finish(s);
			client_takes(MUCH);
			cr_assert_eq(client_got, (size_t)MUCH);
			cr_assert_eq(client_takes(SIZE_MAX), CLIENT_NOTIFY);
			UNTIL(loop, seen.drained > 0);
			cr_assert_eq(seen.drained, 1u);
			end();
		}
	}
}

Test(tls_stream, our_end_leaves_reading_alive)
{
	EACH_VERSION(v) {
		char buf[16];
		size_t n;

		begin(*v, true);
		client_got = 0;
		stream_resume(s, STREAM_PAUSE_IDLE);
		server_sends(MUCH);
		stream_finish(s);
		client_takes(MUCH);
		cr_assert_eq(client_takes(SIZE_MAX), CLIENT_NOTIFY);
		for (unsigned i = 0; i < 1000 && peer_read(fd, buf, sizeof(buf), &n) == PEER_NOTHING; i++)
			poll(NULL, 0, 1);
		cr_assert_eq(peer_read(fd, buf, sizeof(buf), &n), PEER_FIN, "FIN behind the close_notify");
		client_sends(MUCH);
		UNTIL(loop, seen.n >= MUCH);
		cr_assert(received(MUCH));
		SSL_shutdown(client);
		shutdown(fd, SHUT_WR);
		UNTIL(loop, seen.eof);
		cr_assert_not(seen.truncated);
		end();
	}
}

Test(tls_stream, a_reset_is_a_fault)
{
	begin(TLS1_3_VERSION, false);
	stream_resume(s, STREAM_PAUSE_IDLE);
	peer_reset(fd);
	fd = -1;
	UNTIL(loop, seen.broken);
	cr_assert_eq(seen.fault, STREAM_FAULT_RESET);
	cr_assert_not(stream_write(s, "x", 1));
	end();
	begin(TLS1_3_VERSION, true);
	server_sends(MUCH);
	peer_reset(fd);
	fd = -1;
	UNTIL(loop, seen.faults > 0);
	cr_assert_eq(seen.fault, STREAM_FAULT_RESET);
	end();
}

Test(tls_stream, a_broken_record_is_a_fault)
{
	EACH_VERSION(v) {
		begin(*v, false);
		stream_resume(s, STREAM_PAUSE_IDLE);
		client_says("\x17\x03\x03\x00\x20" "0123456789abcdef0123456789abcdef", 37);
		UNTIL(loop, seen.broken);
		cr_assert_eq(seen.fault, STREAM_FAULT_PROTOCOL);
		cr_assert_not(stream_write(s, "x", 1));
		end();
	}
}

/* OpenSSL wants to send an alert although our FIN has left. */
Test(tls_stream, a_broken_record_after_our_end_is_a_fault_and_no_more)
{
	EACH_VERSION(v) {
		begin(*v, false);
		stream_resume(s, STREAM_PAUSE_IDLE);
		stream_finish(s);
		UNTIL(loop, seen.drained == 1);
		client_says("\x17\x03\x03\x00\x20" "0123456789abcdef0123456789abcdef", 37);
		UNTIL(loop, seen.broken);
		cr_assert_eq(seen.fault, STREAM_FAULT_PROTOCOL);
		end();
	}
}

/* --- key updates (TLS 1.3) --- */

static void client_updates_keys(void)
{
	cr_assert(SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED));
	cr_assert_eq(SSL_do_handshake(client), 1);
}

Test(tls_stream, a_key_update_while_our_output_is_blocked_breaks_nothing)
{
	begin(TLS1_3_VERSION, true);
	client_got = 0;
	stream_resume(s, STREAM_PAUSE_IDLE);
	server_sends(MUCH);
	cr_assert_gt(stream_queued(s), 0u);
	for (unsigned i = 0; i < 3; i++) {
		client_updates_keys();
		loop_turn(loop);
	}
	client_sends(1000);
	UNTIL(loop, seen.n == 1000);
	client_takes(MUCH);
	cr_assert_eq(client_got, (size_t)MUCH);
	cr_assert_not(seen.broken);
	end();
}

Test(tls_stream, a_key_update_after_our_end_breaks_nothing)
{
	begin(TLS1_3_VERSION, false);
	stream_resume(s, STREAM_PAUSE_IDLE);
	stream_finish(s);
	UNTIL(loop, seen.drained == 1);
	client_updates_keys();
	client_sends(1000);
	UNTIL(loop, seen.n == 1000 || seen.broken);
	cr_assert(received(1000));
	end();
}

/* Key updates carry no bytes for the reader, and each costs us a key derivation: a client that sends nothing else is
 * ended after a few, before it has had much of the worker's time. */
Test(tls_stream, a_flood_of_key_updates_is_ended)
{
	size_t n, flood = 0, sent, left;
	int unread, unsent;

	begin(TLS1_3_VERSION, false);
	while (flood < 5000 && SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED) && SSL_do_handshake(client) == 1)
		flood++;
	ERR_clear_error();
	sent = (size_t)BIO_number_written(SSL_get_wbio(client));
	cr_assert_gt(sent, (size_t)100 * 1024);
	cr_assert_eq(stream_read(s, seen.bytes, CHUNK, &n), STREAM_IO_ERROR);
	cr_assert_eq(stream_fault(s), STREAM_FAULT_PROTOCOL);
	cr_assert(ioctl(server_fd, FIONREAD, &unread) == 0 && ioctl(fd, TIOCOUTQ, &unsent) == 0);
	left = (size_t)unread + (size_t)unsent; /* what is not acknowledged yet is in both */
	cr_assert_leq(sent, left + 8 * 1024, "the flood was read on: %zu of %zu bytes are left", left, sent);
	cr_assert_lt(stream_queued(s), (size_t)8 * 1024, "its answers are queued");
	end();
}

static size_t answers;

static void on_message(int written, int version ADIT_UNUSED, int type, const void *p, size_t n, SSL *ssl ADIT_UNUSED,
	void *ctx ADIT_UNUSED)
{
	answers += !written && type == SSL3_RT_HANDSHAKE && n > 0 && *(const unsigned char *)p == SSL3_MT_KEY_UPDATE;
}

/* In a tunnel one read from the kernel brings hundreds of them, which OpenSSL would all work off in one call. */
Test(tls_stream, a_flood_of_key_updates_that_was_read_ahead_is_ended_amid_it)
{
	size_t n;

	begin(TLS1_3_VERSION, false);
	stream_secret(s, false);
	stream_ahead(s, true);
	answers = 0;
	SSL_set_msg_callback(client, on_message);
	for (size_t flood = 0; flood < 500; flood++)
		client_updates_keys();
	cr_assert_eq(stream_read(s, seen.bytes, CHUNK, &n), STREAM_IO_ERROR);
	cr_assert_eq(stream_fault(s), STREAM_FAULT_PROTOCOL);
	(void)client_read_once();
	cr_assert_gt(answers, 0u, "the first ones are answered");
	cr_assert_leq(answers, 70u, "%zu were worked off", answers);
	end();
}

Test(tls_stream, key_updates_between_data_are_fine)
{
	begin(TLS1_3_VERSION, false);
	stream_secret(s, false);
	stream_ahead(s, true);
	stream_resume(s, STREAM_PAUSE_IDLE);
	for (unsigned round = 0; round < 4; round++) {
		seen.n = 0;
		for (unsigned i = 0; i < 30; i++) {
			client_updates_keys();
			loop_turn(loop);
			client_sends(CHUNK);
			UNTIL(loop, seen.n >= CHUNK || seen.broken);
			cr_assert_not(seen.broken, "round %u, update %u", round, i);
			seen.n = 0;
		}
	}
	end();
}

/* --- closing --- */

Test(tls_stream, each_way_to_close_is_seen_as_such)
{
	static const struct {
		enum stream_close how;
		enum client_saw saw;
	} cases[] = {
		{ STREAM_CLOSE_FLUSH, CLIENT_NOTIFY }, { STREAM_CLOSE_TRUNCATE, CLIENT_FIN }, { STREAM_CLOSE_ABORT, CLIENT_RST },
	};

	EACH_VERSION(v) {
		for (size_t i = 0; i < 3; i++) {
			begin(*v, true);
			client_got = 0;
			server_sends(MUCH);
			close_stream(cases[i].how);
			cr_assert_eq(client_takes(SIZE_MAX), cases[i].saw, "case %zu", i);
			if (cases[i].how != STREAM_CLOSE_ABORT)
				cr_assert_eq(client_got, (size_t)MUCH);
			end();
		}
	}
}

Test(tls_stream, may_be_closed_from_inside_every_callback)
{
	static const char callbacks[] = "hrd";

	EACH_VERSION(v) {
		for (const char *c = callbacks; *c; c++) {
			for (int how = STREAM_CLOSE_FLUSH; how <= STREAM_CLOSE_ABORT; how++) {
				connect_client(*v, true);
				seen.close_in = *c;
				seen.how = (enum stream_close)how;
				client_got = 0;
				for (unsigned i = 0; i < 1000 && seen.verdicts == 0; i++) {
					(void)SSL_do_handshake(client);
					loop_turn(loop);
				}
				ERR_clear_error();
				cr_assert_eq(seen.verdict, REASON_OK);
				if (*c == 'r') {
					(void)SSL_do_handshake(client);
					client_sends(10);
					stream_resume(s, STREAM_PAUSE_IDLE);
				} else if (*c == 'd') {
					(void)SSL_do_handshake(client);
					server_sends(MUCH);
					client_takes(MUCH);
				}
				UNTIL(loop, !s);
				end();
			}
		}
	}
}

Test(tls_stream, the_linger_deadline_ends_a_close)
{
	begin(TLS1_3_VERSION, true);
	server_sends(MUCH);
	close_stream(STREAM_CLOSE_FLUSH);
	loop_advance(loop, LINGER_MS - 1);
	cr_assert_eq(seen.closed, 0u);
	loop_advance(loop, 1);
	end();
}

/* --- secrets --- */

/* TAIL: what is looked for, since an allocator writes over the beginning of what is given back to it. */
enum { SECRET_BYTES = 1000, TAIL = 40, MASK = 0x5a };
static unsigned char masked[SECRET_BYTES];

/* How often the secret's end lies in this process's writable memory. Never holds it itself. */
__attribute__((no_sanitize("address", "undefined"))) static unsigned secret_copies(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], rights[8], *newline;
	unsigned long from, to;
	unsigned found = 0;

	cr_assert_not_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		newline = strchr(line, '\n');
		if (newline)
			*newline = '\0';
		if (sscanf(line, "%lx-%lx %7s", &from, &to, rights) != 3 || strncmp(rights, "rw-p", 4) != 0 || to - from > 1ul << 28)
			continue;
		for (const volatile unsigned char *p = (const unsigned char *)from; p + TAIL <= (const unsigned char *)to; p++) {
			size_t i = 0;

			while (i < TAIL && p[i] == (masked[SECRET_BYTES - TAIL + i] ^ MASK))
				i++;
			found += i == TAIL;
		}
	}
	fclose(maps);
	return found;
}

Test(tls_stream, plaintext_is_wiped_inside_openssl_while_it_is_secret)
{
	for (int secret = 1; secret >= 0; secret--) {
		unsigned char word[SECRET_BYTES];
		size_t n;

		begin(TLS1_3_VERSION, false);
		for (size_t i = 0; i < SECRET_BYTES; i++)
			masked[i] = (unsigned char)((i * i * 37 + i * 11 + (size_t)secret * 101) ^ MASK);
		stream_secret(s, secret);
		stream_ahead(s, !secret);
		for (size_t i = 0; i < SECRET_BYTES; i++)
			word[i] = masked[i] ^ MASK;
		cr_assert_eq(SSL_write_ex(client, word, SECRET_BYTES, &n), 1);
		mem_burn(word, sizeof(word));
		seen.most = CHUNK;
		stream_resume(s, STREAM_PAUSE_IDLE);
		UNTIL(loop, seen.n == SECRET_BYTES);
		mem_burn(seen.bytes, seen.n);
		if (secret)
			cr_assert_eq(secret_copies(), 0u);
		else
			cr_assert_gt(secret_copies(), 0u, "the search must find what is there");
		end();
	}
}

/* --- memory --- */

Test(tls_stream, without_memory_the_descriptor_stays_the_callers)
{
	for (unsigned long n = 1;; n++) {
		int ends[2];

		tcp_pair(ends, false);
		mem_fault_set(n, false);
		s = tls_stream_accept(loop, ends[0], context, &wire, TLS_HTTP2_FIRST, LINGER_MS, on_handshake, &seen);
		if (!mem_fault_hit()) {
			mem_fault_set(0, false);
			close_stream(STREAM_CLOSE_ABORT);
			close(ends[1]);
			loop_turn(loop);
			cr_assert_gt(n, 1ul);
			return;
		}
		cr_assert_null(s);
		cr_assert_eq(close(ends[0]), 0);
		close(ends[1]);
	}
}
