/* TLS between a socket and a stream.
 *
 * OpenSSL writes into the worker's wire buffer through a BIO of ours that never blocks; what the kernel does not take
 * is queued as ciphertext below (sock). So there is no write to retry with the same bytes, no WANT_WRITE, a KeyUpdate
 * answer can go out at any time, and many records leave in one send. Reads come straight from the socket, several
 * records at a time (read-ahead); what is left inside OpenSSL is told by `pending`, since no descriptor event will
 * tell.
 *
 * End of stream: SSL_OP_IGNORE_UNEXPECTED_EOF turns a bare FIN into an ordinary end that leaves writing alive; whether
 * a close_notify came is noted by the info callback. */
#include "adit/tls/tls_stream.h"

#include "adit/base/addr.h"
#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "adit/stream/sock.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>

/* What one turn takes from the kernel beyond twice what the reader gets: KeyUpdates and tiny records give next to
 * nothing to the reader, and a client that sends nothing else would keep OpenSSL reading for as long as it likes. What
 * is left in the kernel announces itself again. */
enum { TURN_RAW_BYTES = 64 * 1024 };

/* KeyUpdates and attempts to renegotiate that a client may send without 1 MiB of data: each costs us a key derivation
 * or an answer, and none of them passes the relay's back-pressure. Counted in steps of OpenSSL's state machine, of
 * which a KeyUpdate takes up to four. */
enum { CONTROL_MAX = 256, CONTROL_PER_BYTES = 1024 * 1024 };

struct tls_stream {
	struct stream base;
	struct sock sock;
	SSL *ssl;
	struct tls_context *context;
	struct tls_wire *wire;
	tls_handshake_fn *handshake_done;
	void *handshake_ctx;
	const char *error;
	enum stream_fault io_fault;
	struct loop_task turn; /* the handshake's next step */
	unsigned long long lane; /* of the client's network */
	unsigned linger_ms;
	bool open; /* handshake finished */
	bool corked;
	bool failed; /* SSL_ERROR_SSL or _SYSCALL: no more SSL calls but free */
	bool raw_eof; /* FIN seen by the BIO */
	bool raw_drained; /* the last recv returned less than it could */
	size_t raw_left; /* of TURN_RAW_BYTES */
	bool close_notify;
	unsigned control; /* control messages since `control_bytes` was 0 */
	size_t control_bytes; /* data read since then */
	bool first_byte_seen;
	bool looks_like_http;
};

static struct tls_stream *of(const struct stream *s)
{
	return OBJ_OF(s, struct tls_stream, base);
}

enum { TLS_RECORD_MAX = 17 * 1024 }; /* with all its overhead */

/* --- the BIO --- */

static void flush(struct tls_stream *t)
{
	size_t n = t->wire->used;

	if (t->corked && n < TLS_WIRE_BYTES - TLS_RECORD_MAX)
		return;
	t->wire->used = 0;
	/* Behind our FIN nothing can be sent any more, should OpenSSL still have something to say. */
	if (n > 0 && t->io_fault == STREAM_FAULT_NONE && !t->sock.finish_wanted)
		(void)sock_write(&t->sock, t->wire->bytes, n, &t->io_fault);
}

static int bio_write(BIO *bio, const char *data, size_t n, size_t *written)
{
	struct tls_stream *t = BIO_get_data(bio);

	ADIT_ASSERT(n <= TLS_WIRE_BYTES);
	if (t->wire->used + n > TLS_WIRE_BYTES)
		flush(t);
	if (t->io_fault != STREAM_FAULT_NONE)
		return 0;
	memcpy(t->wire->bytes + t->wire->used, data, n);
	t->wire->used += n;
	*written = n;
	return 1;
}

static int bio_read(BIO *bio, char *buf, size_t size, size_t *n)
{
	struct tls_stream *t = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (t->control > CONTROL_MAX)
		return 0; /* no retry: this is the end of the connection */
	if (t->raw_left == 0) {
		t->raw_drained = true;
		BIO_set_retry_read(bio);
		return 0;
	}
	switch (sock_read(&t->sock, buf, size, n, &t->io_fault)) {
	case STREAM_IO_OK:
		if (!t->first_byte_seen) {
			t->first_byte_seen = true;
			t->looks_like_http = buf[0] >= 'A' && buf[0] <= 'Z';
		}
		t->raw_drained = *n < size;
		t->raw_left -= *n < t->raw_left ? *n : t->raw_left;
		return 1;
	case STREAM_IO_AGAIN:
		t->raw_drained = true;
		BIO_set_retry_read(bio);
		return 0;
	case STREAM_IO_EOF:
		t->raw_eof = true;
		return 0;
	default:
		return 0;
	}
}

static long bio_ctrl(BIO *bio, int command, long number ADIT_UNUSED, void *pointer ADIT_UNUSED)
{
	struct tls_stream *t = BIO_get_data(bio);

	switch (command) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		return t->raw_eof;
	default:
		return 0;
	}
}

static BIO_METHOD *bio_method;

static void make_bio_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "adit socket");

	if (m && BIO_meth_set_write_ex(m, bio_write) && BIO_meth_set_read_ex(m, bio_read) &&
	    BIO_meth_set_ctrl(m, bio_ctrl))
		bio_method = m;
	else
		BIO_meth_free(m);
}

static BIO *make_bio(struct tls_stream *t)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	BIO *bio;

	pthread_once(&once, make_bio_method);
	bio = bio_method ? BIO_new(bio_method) : NULL;
	if (bio) {
		BIO_set_data(bio, t);
		BIO_set_init(bio, 1);
	}
	return bio;
}

/* --- OpenSSL's results --- */

static void on_info(const SSL *ssl, int where, int ret)
{
	struct tls_stream *t = SSL_get_app_data(ssl);

	if (where == SSL_CB_READ_ALERT && (ret & 0xff) == SSL_AD_CLOSE_NOTIFY)
		t->close_notify = true;
	if (!t->open)
		return;
	/* Messages behind the handshake: each passes the state machine, or is refused by a warning. */
	if (where == SSL_CB_ACCEPT_LOOP || (where == SSL_CB_WRITE_ALERT && (ret & 0xff) == SSL_AD_NO_RENEGOTIATION))
		t->control++;
	/* What was read ahead, hundreds of KeyUpdates perhaps, is worked off within one SSL_read, which asks the BIO for
	 * nothing meanwhile; it does look at this between two records. */
	if (t->control > CONTROL_MAX)
		SSL_set_shutdown((SSL *)(uintptr_t)ssl, SSL_RECEIVED_SHUTDOWN);
}

/* Takes the newest of the thread's error queue and empties it. */
static const char *take_error(void)
{
	unsigned long code = ERR_peek_last_error();
	const char *text = code ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return text ? text : "";
}

/* Turns a failed SSL_read, SSL_write or SSL_do_handshake into our words. */
static enum stream_io judge(struct tls_stream *t, int ret)
{
	switch (SSL_get_error(t->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
		return STREAM_IO_AGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return STREAM_IO_EOF;
	default:
		t->error = take_error();
		t->failed = true;
		return STREAM_IO_ERROR;
	}
}

static enum stream_fault fault_of(const struct tls_stream *t)
{
	if (t->io_fault != STREAM_FAULT_NONE)
		return t->io_fault;
	return t->raw_eof ? STREAM_FAULT_RESET : STREAM_FAULT_PROTOCOL;
}

/* --- handshake --- */

static void handshake_failed(struct tls_stream *t)
{
	enum reason verdict = REASON_HANDSHAKE_FAILED;

	if (t->looks_like_http) {
		t->wire->used = 0; /* an alert would be noise before the plain answer */
		verdict = REASON_PLAIN_HTTP;
	} else if (t->io_fault == STREAM_FAULT_MEMORY) {
		verdict = REASON_NO_MEMORY;
	} else if (t->raw_eof || t->io_fault != STREAM_FAULT_NONE) {
		verdict = REASON_CLIENT_GONE;
	}
	flush(t);
	loop_unpost(t->base.loop, &t->turn);
	sock_watch(&t->sock, false);
	t->handshake_done(t->handshake_ctx, verdict);
}

/* A signature and a key exchange, for a stranger: in turns with everybody else's. */
static void handshake(void *ctx)
{
	struct tls_stream *t = ctx;
	int ret;

	ERR_clear_error();
	t->raw_left = TURN_RAW_BYTES;
	ret = SSL_do_handshake(t->ssl);
	if (ret != 1) {
		if (judge(t, ret) != STREAM_IO_AGAIN) {
			t->failed = true;
			handshake_failed(t);
			return;
		}
		flush(t);
		if (t->io_fault != STREAM_FAULT_NONE) {
			handshake_failed(t); /* the client waits for what could not be sent */
			return;
		}
		sock_watch(&t->sock, true);
		return;
	}
	/* The ticket goes out at once, although waiting for the first answer would save a send (3 % of a set-up): it
	 * carries the ACK that a client without TCP_NODELAY waits for before it sends its request, 40 ms otherwise. */
	flush(t);
	if (t->io_fault != STREAM_FAULT_NONE) {
		handshake_failed(t);
		return;
	}
	t->open = true;
	sock_watch(&t->sock, t->base.pause == 0);
	t->handshake_done(t->handshake_ctx, REASON_OK);
}

/* --- stream operations --- */

static enum stream_io tls_read(struct stream *s, void *buf, size_t size, size_t *n)
{
	struct tls_stream *t = of(s);
	enum stream_io io = STREAM_IO_OK;

	ADIT_ASSERT(t->open);
	*n = 0;
	t->raw_left = TURN_RAW_BYTES;
	ERR_clear_error();
	while (*n < size && io == STREAM_IO_OK) {
		size_t got = 0;
		int ret = SSL_read_ex(t->ssl, (char *)buf + *n, size - *n, &got);

		if (ret == 1) {
			*n += got;
			t->control_bytes += got;
			if (t->control_bytes >= CONTROL_PER_BYTES) {
				t->control = 0;
				t->control_bytes = 0;
			}
			t->raw_left += 2 * got;
			/* asking the kernel again would only bring EAGAIN */
			if (t->raw_drained && !SSL_has_pending(t->ssl))
				break;
		} else if (t->control > CONTROL_MAX) {
			(void)take_error();
			t->error = "too many KeyUpdates or renegotiations without data";
			t->failed = true;
			io = STREAM_IO_ERROR;
		} else {
			io = judge(t, ret);
		}
	}
	flush(t); /* a KeyUpdate answer, an alert */
	if (io == STREAM_IO_EOF) {
		s->eof = true;
		s->truncated = !t->close_notify;
	} else if (io == STREAM_IO_ERROR) {
		s->fault = fault_of(t);
	}
	if (*n == 0)
		return io;
	/* The bytes first; nothing will announce what came behind them. */
	if (io == STREAM_IO_EOF || io == STREAM_IO_ERROR)
		stream_more(s);
	return STREAM_IO_OK;
}

static bool tls_write(struct stream *s, const void *data, size_t n)
{
	struct tls_stream *t = of(s);
	const char *p = data;

	ADIT_ASSERT(t->open);
	ERR_clear_error();
	while (n > 0 && !t->failed) {
		size_t taken = 0;
		int ret = SSL_write_ex(t->ssl, p, n, &taken);

		if (ret != 1) {
			(void)judge(t, ret);
			t->failed = true; /* the BIO never blocks: any refusal is final */
		}
		p += taken;
		n -= taken;
	}
	flush(t);
	if (t->failed || t->io_fault != STREAM_FAULT_NONE) {
		s->fault = fault_of(t);
		return false;
	}
	return true;
}

static size_t tls_queued(const struct stream *s)
{
	return sock_queued(&of(s)->sock);
}

static unsigned tls_rtt_us(const struct stream *s)
{
	return sock_rtt_us(&of(s)->sock);
}

static void say_goodbye(struct tls_stream *t)
{
	if (!t->open || t->failed || t->io_fault != STREAM_FAULT_NONE)
		return;
	ERR_clear_error();
	if (SSL_shutdown(t->ssl) < 0)
		(void)take_error();
	flush(t);
}

static void tls_finish(struct stream *s)
{
	struct tls_stream *t = of(s);

	say_goodbye(t);
	sock_finish(&t->sock);
}

static void tls_watch(struct stream *s, bool on)
{
	struct tls_stream *t = of(s);

	if (t->open) /* the handshake reads on its own account */
		sock_watch(&t->sock, on);
}

static bool tls_pending(const struct stream *s)
{
	return SSL_has_pending(of(s)->ssl) == 1;
}

static void tls_secret(struct stream *s, bool on)
{
	SSL *ssl = of(s)->ssl;

	if (on)
		SSL_set_options(ssl, SSL_OP_CLEANSE_PLAINTEXT);
	else
		SSL_clear_options(ssl, SSL_OP_CLEANSE_PLAINTEXT);
}

/* Read-ahead saves calls on a relay, but what has been read ahead is worked off inside one SSL_read: a stranger gets
 * record by record, so that the limit on control messages stops him at once. */
static void tls_ahead(struct stream *s, bool on)
{
	SSL_set_read_ahead(of(s)->ssl, on);
}

static void tls_cork(struct stream *s, bool on)
{
	struct tls_stream *t = of(s);

	t->corked = on;
	if (on)
		return;
	flush(t);
	if (t->io_fault != STREAM_FAULT_NONE && s->fault == STREAM_FAULT_NONE)
		s->fault = t->io_fault;
}

static void tls_close(struct stream *s, enum stream_close how)
{
	struct tls_stream *t = of(s);

	loop_unpost(s->loop, &t->turn);
	if (how == STREAM_CLOSE_FLUSH && !s->finishing)
		say_goodbye(t);
	sock_close(&t->sock, how, t->raw_eof, t->linger_ms);
}

static const struct stream_ops tls_ops = {
	.read = tls_read,
	.write = tls_write,
	.queued = tls_queued,
	.finish = tls_finish,
	.watch = tls_watch,
	.pending = tls_pending,
	.secret = tls_secret,
	.cork = tls_cork,
	.ahead = tls_ahead,
	.rtt_us = tls_rtt_us,
	.close = tls_close,
};

/* --- from the socket --- */

static void on_readable(void *ctx)
{
	struct tls_stream *t = ctx;

	if (t->open)
		stream_notify_readable(&t->base);
	else if (!loop_take_turn(t->base.loop, &t->turn, t->lane))
		sock_watch(&t->sock, false); /* its bytes wait in the kernel */
}

static void on_drained(void *ctx)
{
	struct tls_stream *t = ctx;

	if (t->open)
		stream_notify_drained(&t->base);
}

static void on_fault(void *ctx, enum stream_fault fault)
{
	struct tls_stream *t = ctx;

	if (t->io_fault == STREAM_FAULT_NONE)
		t->io_fault = fault;
	if (t->open)
		stream_notify_fault(&t->base, fault);
	else
		handshake_failed(t);
}

static void free_stream(struct tls_stream *t)
{
	SSL_free(t->ssl);
	tls_context_unref(t->context);
	mem_free(t);
}

static void on_closed(void *ctx)
{
	struct tls_stream *t = ctx;

	stream_closed(&t->base);
	free_stream(t);
}

static const struct sock_callbacks sock_callbacks = { on_readable, on_drained, on_fault, on_closed };

/* Networks as the limits at the door see them. */
static unsigned long long lane_of(int fd)
{
	struct sockaddr_storage from;
	socklen_t n = sizeof(from);
	struct addr peer;
	struct cidr network = { 0 };

	if (getpeername(fd, (struct sockaddr *)&from, &n) == 0 && addr_from_sockaddr(&peer, (struct sockaddr *)&from, n))
		network = addr_prefix(&peer, 32, 64);
	return lru_hash(&network, sizeof(network));
}

struct stream *tls_stream_accept(struct loop *loop, int fd, struct tls_context *context, struct tls_wire *wire,
	enum tls_http2 http2, unsigned linger_ms, tls_handshake_fn *done, void *ctx)
{
	struct tls_stream *t = mem_alloc(sizeof(*t));
	BIO *bio = NULL;

	if (!t)
		return NULL;
	t->context = tls_context_ref(context);
	t->wire = wire;
	t->linger_ms = linger_ms;
	t->handshake_done = done;
	t->handshake_ctx = ctx;
	t->lane = lane_of(fd);
	loop_task_init(&t->turn, handshake, t);
	t->error = "";
	t->ssl = tls_context_ssl(context, t, http2);
	bio = make_bio(t);
	if (!t->ssl || !bio)
		goto fail;
	SSL_set_bio(t->ssl, bio, bio);
	bio = NULL;
	SSL_set_info_callback(t->ssl, on_info);
	if (!sock_init(&t->sock, loop, fd, &sock_callbacks, t))
		goto fail;
	stream_init(&t->base, &tls_ops, loop);
	sock_watch(&t->sock, true);
	return &t->base;
fail:
	ERR_clear_error();
	BIO_free(bio);
	free_stream(t);
	return NULL;
}

void tls_stream_info(const struct stream *s, struct tls_stream_info *out)
{
	const struct tls_stream *t = of(s);
	const unsigned char *alpn = NULL;
	unsigned alpn_n = 0;

	SSL_get0_alpn_selected(t->ssl, &alpn, &alpn_n);
	out->version = SSL_get_version(t->ssl);
	out->cipher = SSL_get_cipher_name(t->ssl);
	out->sni = SSL_get_servername(t->ssl, TLSEXT_NAMETYPE_host_name);
	out->alpn = (struct slice){ (const char *)alpn, alpn_n };
	out->resumed = SSL_session_reused(t->ssl) == 1;
}

const char *tls_stream_error(const struct stream *s)
{
	return of(s)->error;
}

void tls_stream_plain(struct stream *s, struct slice bytes)
{
	struct tls_stream *t = of(s);

	if (t->io_fault == STREAM_FAULT_NONE)
		(void)sock_write(&t->sock, bytes.p, bytes.n, &t->io_fault);
}
