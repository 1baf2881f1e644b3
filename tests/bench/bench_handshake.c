/* What a handshake costs the server: CPU time (of this thread, in the server's calls only) and memory, without sockets.
 *
 *     bench_handshake [ROUNDS [HANDSHAKES [WORDS]]]
 *
 * With WORDS only the rows whose name has them, and time only. Instructions of the server alone, free of noise:
 *     valgrind --tool=callgrind --toggle-collect=serve bench_handshake 1 50 "as served"
 *
 * Client and server share a BIO pair. Variants take turns within a round, so that a busy machine hurts all alike; the
 * figure is the median over the rounds, with the lowest beside it. The first row is what adit serves; each other row
 * changes one thing. */
#include "adit/base/mem.h"
#include "adit/tls/context.h"
#include "tls/context_priv.h"

#include <malloc.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct variant {
	const char *name, *kind; /* of the key; NULL: P-256 */
	void (*tweak)(SSL_CTX *ctx);
	int version; /* 0: TLS 1.3 */
	bool resumed;
	bool left_out;
	const char *groups, *suites; /* offered by the client; NULL: X25519, AES-128-GCM */
	const char *sni;
	/* made from the above */
	struct tls_tickets *tickets;
	struct tls_context *context;
	SSL_CTX *client;
	SSL_SESSION *session;
	double *us;
};

static char dir[] = "/tmp/adit-bench-XXXXXX";

static void check(bool ok, const char *what)
{
	if (!ok) {
		(void)fprintf(stderr, "bench_handshake: %s failed\n", what);
		ERR_print_errors_fp(stderr);
		exit(1);
	}
}

/* --- variants --- */

static void two_tickets(SSL_CTX *ctx) { (void)SSL_CTX_set_num_tickets(ctx, 2); }
static void no_ticket(SSL_CTX *ctx) { (void)SSL_CTX_set_num_tickets(ctx, 0); }
static void own_keys(SSL_CTX *ctx) { (void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, NULL); }
static void no_cleanse(SSL_CTX *ctx) { (void)SSL_CTX_clear_options(ctx, SSL_OP_CLEANSE_PLAINTEXT); }
static void keep_buffers(SSL_CTX *ctx) { (void)SSL_CTX_clear_mode(ctx, SSL_MODE_RELEASE_BUFFERS); }
static void level_0(SSL_CTX *ctx) { SSL_CTX_set_security_level(ctx, 0); }
static void cache_on(SSL_CTX *ctx) { (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER); }
static void small_buffer(SSL_CTX *ctx) { (void)SSL_CTX_set_max_send_fragment(ctx, 4096); }

static void read_ahead_64k(SSL_CTX *ctx)
{
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, 65536);
}

static void few_sigalgs(SSL_CTX *ctx)
{
	static char list[] = "ECDSA+SHA256:RSA-PSS+SHA256:ECDSA+SHA384:RSA-PSS+SHA384:RSA+SHA256";

	check(SSL_CTX_set1_sigalgs_list(ctx, list) == 1, "sigalgs");
}

static int no_new_ticket(SSL *ssl ADIT_UNUSED, void *arg ADIT_UNUSED)
{
	return 1;
}

static SSL_TICKET_RETURN no_renewal(SSL *ssl ADIT_UNUSED, SSL_SESSION *session ADIT_UNUSED,
	const unsigned char *name ADIT_UNUSED, size_t n ADIT_UNUSED, SSL_TICKET_STATUS status, void *arg ADIT_UNUSED)
{
	return status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW ? SSL_TICKET_RETURN_USE :
		SSL_TICKET_RETURN_IGNORE_RENEW;
}

static void not_renewed(SSL_CTX *ctx) { (void)SSL_CTX_set_session_ticket_cb(ctx, no_new_ticket, no_renewal, NULL); }

static struct variant variants[] = {
	{ .name = "as served: TLS 1.3, P-256 key, X25519, AES-128-GCM, one ticket" },
	{ .name = "resumed", .resumed = true },
	{ .name = "resumed, no new ticket", .resumed = true, .tweak = not_renewed },
	{ .name = "resumed, OpenSSL's own ticket keys", .resumed = true, .tweak = own_keys },
	{ .name = "no ticket", .tweak = no_ticket },
	{ .name = "two tickets", .tweak = two_tickets },
	{ .name = "OpenSSL's own ticket keys", .tweak = own_keys },
	{ .name = "client offers P-256", .groups = "P-256" },
	{ .name = "client guesses wrong (HelloRetryRequest)", .groups = "P-384:X25519" },
	{ .name = "AES-256-GCM", .suites = "TLS_AES_256_GCM_SHA384" },
	{ .name = "ChaCha20", .suites = "TLS_CHACHA20_POLY1305_SHA256" },
	{ .name = "RSA 2048 key", .kind = "RSA" },
	{ .name = "P-384 key", .kind = "P-384" },
	{ .name = "second certificate by SNI", .sni = "second.test" },
	{ .name = "few signature algorithms", .tweak = few_sigalgs },
	{ .name = "security level 0", .tweak = level_0 },
	{ .name = "plaintext not cleansed", .tweak = no_cleanse },
	{ .name = "record buffers kept", .tweak = keep_buffers },
	{ .name = "send fragment 4096", .tweak = small_buffer },
	{ .name = "read-ahead, 64 KiB", .tweak = read_ahead_64k },
	{ .name = "internal session cache", .tweak = cache_on },
	{ .name = "TLS 1.2", .version = TLS1_2_VERSION },
	{ .name = "TLS 1.2 resumed", .version = TLS1_2_VERSION, .resumed = true },
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

/* --- certificates --- */

static void make_pair(const char *name, const char *kind, const char *dns)
{
	EVP_PKEY *key = strcmp(kind, "RSA") == 0 ? EVP_RSA_gen(2048) : EVP_EC_gen(kind);
	X509 *x = X509_new();
	X509_EXTENSION *alt;
	char path[64], text[64];
	FILE *f;

	check(key != NULL && x != NULL, "key");
	(void)X509_set_version(x, X509_VERSION_3);
	(void)ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	(void)X509_gmtime_adj(X509_getm_notBefore(x), 0);
	(void)X509_gmtime_adj(X509_getm_notAfter(x), 365L * 86400);
	(void)X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"bench", -1, -1, 0);
	(void)X509_set_issuer_name(x, X509_get_subject_name(x));
	(void)X509_set_pubkey(x, key);
	(void)snprintf(text, sizeof text, "DNS:%s", dns);
	alt = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, text);
	check(alt != NULL && X509_add_ext(x, alt, -1) == 1 && X509_sign(x, key, EVP_sha256()) > 0, "certificate");
	X509_EXTENSION_free(alt);
	(void)snprintf(path, sizeof path, "%s/%s.crt", dir, name);
	f = fopen(path, "w");
	check(f != NULL && PEM_write_X509(f, x) == 1 && fclose(f) == 0, path);
	(void)snprintf(path, sizeof path, "%s/%s.key", dir, name);
	f = fopen(path, "w");
	check(f != NULL && fchmod(fileno(f), 0600) == 0, path);
	check(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(f) == 0, path);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* --- one handshake --- */

static SSL_SESSION *newest;

static int on_session(SSL *ssl ADIT_UNUSED, SSL_SESSION *session)
{
	SSL_SESSION_free(newest);
	newest = session;
	return 1;
}

static double thread_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static SSL *client_new(const struct variant *v)
{
	SSL *client = SSL_new(v->client);

	check(client != NULL, "SSL_new");
	if (v->sni != NULL)
		(void)SSL_ctrl(client, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)v->sni);
	(void)SSL_set_alpn_protos(client, (const unsigned char *)"\x08http/1.1", 9);
	if (v->session != NULL) {
		SSL_SESSION *copy = SSL_SESSION_dup(v->session); /* OpenSSL's client uses each but once */

		check(copy != NULL && SSL_set_session(client, copy) == 1, "session");
		SSL_SESSION_free(copy);
	}
	SSL_set_connect_state(client);
	return client;
}

/* A frame of its own, for profilers. */
static __attribute__((noinline)) int serve(SSL *server)
{
	return SSL_do_handshake(server);
}

/* Microseconds of the server. With `kept`, the server's SSL is left to the caller, idle. */
static double handshake(struct variant *v, SSL **kept)
{
	SSL *client = client_new(v), *server;
	BIO *near, *far;
	double us, from;
	int a = 0, b = 0;
	char byte;

	check(BIO_new_bio_pair(&near, 1 << 17, &far, 1 << 17) == 1, "BIO pair");
	SSL_set_bio(client, near, near);
	from = thread_us();
	server = tls_context_ssl(v->context, NULL, true);
	check(server != NULL, "tls_context_ssl");
	SSL_set_bio(server, far, far);
	us = thread_us() - from;
	for (int turn = 0; turn < 8 && !(a == 1 && b == 1); turn++) {
		a = SSL_do_handshake(client);
		from = thread_us();
		b = serve(server);
		us += thread_us() - from;
	}
	check(a == 1 && b == 1, v->name);
	check(SSL_session_reused(server) == (v->session != NULL), v->name);
	(void)SSL_read(client, &byte, 1); /* takes the tickets */
	if (kept != NULL) {
		*kept = server;
	} else {
		from = thread_us();
		SSL_free(server);
		us += thread_us() - from;
	}
	SSL_set_quiet_shutdown(client, 1);
	(void)SSL_shutdown(client); /* else OpenSSL forbids the session's use */
	SSL_free(client);
	ERR_clear_error();
	return us;
}

static void prepare(struct variant *v, size_t rounds)
{
	char chain[2][64], key[2][64], error[256];
	const char *kind = v->kind ? v->kind : "P-256";
	struct conf_certificate certificates[] = { { chain[0], key[0], { 0, 0 } }, { chain[1], key[1], { 0, 0 } } };
	struct conf conf = { .tls = { .certificates = certificates, .certificate_count = 2,
		.ticket_lifetime_ms = 3600000 } };
	struct conf_errors errors = { 0 };

	(void)snprintf(chain[0], sizeof chain[0], "%s/%s.crt", dir, kind);
	(void)snprintf(key[0], sizeof key[0], "%s/%s.key", dir, kind);
	(void)snprintf(chain[1], sizeof chain[1], "%s/second.crt", dir);
	(void)snprintf(key[1], sizeof key[1], "%s/second.key", dir);
	v->tickets = tls_tickets_new(NULL, 3600000, error, sizeof error);
	check(v->tickets != NULL, "tickets");
	v->context = tls_context_new(&conf, NULL, v->tickets, &errors);
	conf_errors_print(&errors, stderr);
	check(v->context != NULL, "context");
	if (v->tweak != NULL)
		v->tweak(context_default(v->context));
	v->client = SSL_CTX_new(TLS_client_method());
	check(v->client != NULL, "client");
	(void)SSL_CTX_set_min_proto_version(v->client, v->version ? v->version : TLS1_3_VERSION);
	(void)SSL_CTX_set_max_proto_version(v->client, v->version ? v->version : TLS1_3_VERSION);
	(void)SSL_CTX_set_session_cache_mode(v->client, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(v->client, on_session);
	(void)SSL_CTX_set_ciphersuites(v->client, v->suites ? v->suites : "TLS_AES_128_GCM_SHA256");
	check(SSL_CTX_ctrl(v->client, SSL_CTRL_SET_GROUPS_LIST, 0, (void *)(uintptr_t)(v->groups ? v->groups : "X25519:P-256")) == 1,
		"groups");
	v->us = mem_array(rounds, sizeof *v->us);
	check(v->us != NULL, "memory");
	(void)handshake(v, NULL);
	if (v->resumed) {
		v->session = newest;
		newest = NULL;
		check(v->session != NULL, "ticket");
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void time_all(size_t rounds, size_t count)
{
	for (size_t r = 0; r < rounds; r++)
		for (size_t i = 0; i < VARIANTS; i++) {
			double us = 0;

			if (variants[i].left_out)
				continue;
			for (size_t n = 0; n < count; n++)
				us += handshake(&variants[i], NULL);
			variants[i].us[r] = us / (double)count;
		}
	(void)printf("server CPU per handshake, us: median and lowest of %zu rounds of %zu\n", rounds, count);
	for (size_t i = 0; i < VARIANTS; i++) {
		if (variants[i].left_out)
			continue;
		qsort(variants[i].us, rounds, sizeof(double), compare);
		(void)printf("%8.1f %8.1f  %s\n", variants[i].us[rounds / 2], variants[i].us[0], variants[i].name);
	}
}

/* --- memory --- */

/* Everything allocated less everything freed, so the client must be gone when it is read. */
static _Atomic long long held;

static void *count_malloc(size_t n, const char *file ADIT_UNUSED, int line ADIT_UNUSED)
{
	void *p = malloc(n);

	held += p ? (long long)malloc_usable_size(p) + 8 : 0;
	return p;
}

static void count_free(void *p, const char *file ADIT_UNUSED, int line ADIT_UNUSED)
{
	held -= p ? (long long)malloc_usable_size(p) + 8 : 0;
	free(p);
}

static void *count_realloc(void *p, size_t n, const char *file, int line)
{
	void *q;

	held -= p ? (long long)malloc_usable_size(p) + 8 : 0;
	q = realloc(p, n);
	(void)file;
	(void)line;
	held += q ? (long long)malloc_usable_size(q) + 8 : 0;
	return q;
}

static void weigh(struct variant *v)
{
	enum { CONNECTIONS = 100 };
	SSL *servers[CONNECTIONS], *fresh;
	long long before, created, established;
	char byte;

	(void)handshake(v, NULL);
	before = held;
	fresh = tls_context_ssl(v->context, NULL, true);
	created = held - before;
	SSL_free(fresh);
	SSL_SESSION_free(newest);
	newest = NULL;
	before = held;
	for (int i = 0; i < CONNECTIONS; i++) {
		(void)handshake(v, &servers[i]);
		(void)SSL_read(servers[i], &byte, 1); /* as a server that waits for the request */
		SSL_set_bio(servers[i], NULL, NULL);
		ERR_clear_error();
		SSL_SESSION_free(newest);
		newest = NULL;
	}
	established = (held - before) / CONNECTIONS;
	for (int i = 0; i < CONNECTIONS; i++)
		SSL_free(servers[i]);
	(void)printf("%8lld %8lld  %s\n", created, established, v->name);
}

/* --- several threads --- */

struct lane {
	pthread_t thread;
	struct variant variant;
	size_t count;
	double us;
};

static void *drive(void *arg)
{
	struct lane *l = arg;

	for (size_t i = 0; i < l->count; i++)
		l->us += handshake(&l->variant, NULL);
	return NULL;
}

/* The session callback's store is not for several threads. */
static void time_threads(size_t count, size_t threads, bool clones)
{
	struct lane lanes[8] = { 0 };
	double us = 0;

	for (size_t i = 0; i < threads; i++) {
		lanes[i].variant = variants[0];
		lanes[i].count = count;
		lanes[i].variant.context = clones ? tls_context_clone(variants[0].context) : tls_context_ref(variants[0].context);
		check(lanes[i].variant.context != NULL, "clone");
		SSL_CTX_sess_set_new_cb(lanes[i].variant.client, NULL);
	}
	for (size_t i = 0; i < threads; i++)
		check(pthread_create(&lanes[i].thread, NULL, drive, &lanes[i]) == 0, "thread");
	for (size_t i = 0; i < threads; i++) {
		(void)pthread_join(lanes[i].thread, NULL);
		tls_context_unref(lanes[i].variant.context);
		us += lanes[i].us;
	}
	(void)printf("%8.1f           %zu threads, %s\n", us / (double)(threads * count), threads,
		clones ? "a context each" : "one context");
}

int main(int argc, char **argv)
{
	size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 15, count = argc > 2 ? strtoul(argv[2], NULL, 10) : 50;
	static const char *const names[] = { "P-256", "P-384", "RSA", "second" };
	char path[64];

	if (rounds == 0 || count == 0) {
		(void)fprintf(stderr, "usage: bench_handshake [ROUNDS [HANDSHAKES [WORDS]]]\n");
		return 2;
	}
	check(CRYPTO_set_mem_functions(count_malloc, count_realloc, count_free) == 1, "memory functions");
	check(mkdtemp(dir) != NULL, "mkdtemp");
	for (size_t i = 0; i < 4; i++)
		make_pair(names[i], i == 3 ? "P-256" : names[i], i == 3 ? "second.test" : "first.test");
	for (size_t i = 0; i < VARIANTS; i++) {
		variants[i].left_out = argc > 3 && strstr(variants[i].name, argv[3]) == NULL;
		if (!variants[i].left_out)
			prepare(&variants[i], rounds);
	}
	for (size_t i = 0; i < 4; i++) {
		(void)snprintf(path, sizeof path, "%s/%s.crt", dir, names[i]);
		(void)unlink(path);
		(void)snprintf(path, sizeof path, "%s/%s.key", dir, names[i]);
		(void)unlink(path);
	}
	(void)rmdir(dir);

	time_all(rounds, count);
	if (argc <= 3) {
		(void)printf("server bytes of a connection: by SSL_new, and established and idle\n");
		for (size_t i = 0; i < VARIANTS; i++)
			weigh(&variants[i]);
		(void)printf("server CPU per handshake with several threads, us\n");
		for (size_t threads = 1; threads <= 4; threads *= 2)
			for (int clones = 0; clones < 2; clones++)
				time_threads(rounds * count / 2 + 1, threads, clones);
	}
	for (size_t i = 0; i < VARIANTS; i++) {
		SSL_SESSION_free(variants[i].session);
		SSL_CTX_free(variants[i].client);
		tls_context_unref(variants[i].context);
		tls_tickets_unref(variants[i].tickets);
		mem_free(variants[i].us);
	}
	SSL_SESSION_free(newest);
	return 0;
}
