/* A worker's SSL_CTXs: one per set of certificates that serves some name (sni.c says which).
 *
 * What is hard is life: callbacks get the context as their argument while a reload may have let go of it. SSL_new holds
 * the SSL_CTX it was given (as session_ctx, also after SNI has switched to another), so the default SSL_CTX owns the
 * context, and the last connection frees it.
 *
 * Memory of a connection: what stays after the handshake is the SSL with its session and the states of two ciphers. The
 * record buffers (17 KB for reading, the same for writing) go with SSL_MODE_RELEASE_BUFFERS whenever they are empty,
 * which is why an idle tunnel holds none. docs/tls.md has the figures, and what was tried without effect. */
#include "tls/context_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "tls/cert_priv.h"
#include "tls/sni_priv.h"
#include "tls/sslerr_priv.h"
#include "tls/ticketcb_priv.h"

#include <openssl/err.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define CONTEXT_MAGIC OBJ_MAGIC('t', 'l', 's', 'c')

enum { GROUPS_MAX_BYTES = 128, PROTOCOLS_MAX_BYTES = 255 };

/* Forward secret and authenticated only. AES-128 first: AES-256 brings SHA-384, which costs 8 % of a handshake, and
 * protects nothing that X25519 or P-256 would not give away first. */
static const char suites_12[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
static const char suites_13[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
static const char *const group_names[] = { "X25519MLKEM768", "X25519", "P-256" };
/* The last one is no registered name, but older agents of Node.js (npm 9) offer nothing else. */
static const char *const default_protocols[] = { "h2", "http/1.1", "http/1.0", "http 1.1", NULL };
static const unsigned char session_id_context[] = "adit";

/* The certificates of one configuration: loaded once, read by all clones. */
struct store {
	atomic_uint refs;
	size_t count;
	struct tls_cert **certs;
	struct sni *sni;
};

struct tls_context {
	uint32_t magic;
	atomic_uint refs;
	struct store *store;
	struct tls_tickets *tickets;
	bool min_version_13;
	unsigned lifetime_s; /* of tickets */
	char groups[GROUPS_MAX_BYTES];
	struct protocols {
		unsigned n;
		unsigned char list[PROTOCOLS_MAX_BYTES]; /* as on the wire */
	} protocols[TLS_HTTP2_LAST + 1]; /* by enum tls_http2 */
	SSL_CTX *primary; /* contexts[0] */
	SSL_CTX **contexts; /* by set; a reference to each but the primary, which owns us */
	size_t context_count;
};

static int context_index = -1, http2_index = -1;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;

/* --- certificates --- */

static void store_unref(struct store *store)
{
	if (store == NULL || atomic_fetch_sub(&store->refs, 1) != 1)
		return;
	for (size_t i = 0; i < store->count; i++)
		tls_cert_free(store->certs[i]);
	sni_free(store->sni);
	mem_free(store->certs);
	mem_free(store);
}

struct report {
	const struct conf *conf;
	struct conf_errors *errors;
	const struct conf_certificate *at;
};

static void on_report(void *ctx, enum tls_cert_level level, const char *sentence)
{
	const struct report *r = ctx;
	char where[512] = "";

	if (r->conf->path != NULL && r->at->where.line != 0)
		(void)snprintf(where, sizeof where, "%s:%u:%u: ", r->conf->path, r->at->where.line, r->at->where.column);
	if (level == TLS_CERT_ERROR)
		conf_errors_add(r->errors, "%stls.certificates: %s", where, sentence);
	else
		log_warning("%stls.certificates: %s", where, sentence);
}

static struct store *store_load(const struct conf *conf, struct conf_errors *errors)
{
	size_t count = conf->tls.certificate_count;
	struct report report = { conf, errors, NULL };
	struct store *store = mem_alloc(sizeof *store);
	bool ok = true;

	if (store != NULL) {
		atomic_init(&store->refs, 1);
		store->certs = mem_array(count, sizeof(struct tls_cert *));
	}
	if (store == NULL || store->certs == NULL) {
		conf_errors_add(errors, "tls.certificates: out of memory");
		store_unref(store);
		return NULL;
	}
	for (size_t i = 0; i < count; i++) {
		report.at = &conf->tls.certificates[i];
		store->certs[i] = tls_cert_load(report.at->chain, report.at->key, on_report, &report);
		store->count++;
		ok = ok && store->certs[i] != NULL;
	}
	if (ok) {
		store->sni = sni_new(store->certs, count);
		if (store->sni == NULL) {
			conf_errors_add(errors, "tls.certificates: out of memory");
			ok = false;
		}
	}
	if (!ok) {
		store_unref(store);
		return NULL;
	}
	return store;
}

/* --- callbacks --- */

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in, unsigned in_n,
	void *arg)
{
	const struct tls_context *c;
	const struct protocols *ours;
	unsigned char *chosen;

	OBJ_CAST(c, arg, CONTEXT_MAGIC);
	ours = &c->protocols[(uintptr_t)SSL_get_ex_data(ssl, http2_index)];
	/* Ours is the order. No name in common is an alert (RFC 7301 3.2): a client that insists on something else would
	 * not understand our answers either. Without the extension this is not called, and HTTP/1.1 is spoken. */
	if (SSL_select_next_proto(&chosen, out_n, ours->list, ours->n, in, in_n) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static int on_server_name(SSL *ssl, int *alert, void *arg)
{
	const struct tls_context *c;
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	SSL_CTX *want;

	OBJ_CAST(c, arg, CONTEXT_MAGIC);
	if (name == NULL)
		return SSL_TLSEXT_ERR_NOACK;
	/* also when it is the default: after a HelloRetryRequest the second hello might bear another name */
	want = context_for_name(c, name, strlen(name));
	if (SSL_get_SSL_CTX(ssl) != want && SSL_set_SSL_CTX(ssl, want) == NULL) {
		*alert = SSL_AD_INTERNAL_ERROR;
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	return SSL_TLSEXT_ERR_OK;
}

SSL_CTX *context_for_name(const struct tls_context *c, const char *name, size_t n)
{
	return c->contexts[sni_find(c->store->sni, name, n)];
}

/* --- one SSL_CTX --- */

/* Copies for this context alone: shared ones would have their reference counts fought over by all workers. */
static bool use_cert(SSL_CTX *ctx, const struct tls_cert *cert)
{
	X509 *leaf = X509_dup(cert->leaf);
	EVP_PKEY *key = EVP_PKEY_dup(cert->key);
	STACK_OF(X509) *chain = sk_X509_deep_copy(cert->chain, X509_dup, X509_free);
	bool ok = leaf != NULL && key != NULL && chain != NULL && SSL_CTX_use_cert_and_key(ctx, leaf, key, chain, 1) == 1;

	X509_free(leaf);
	EVP_PKEY_free(key);
	sk_X509_pop_free(chain, X509_free);
	return ok;
}

static void set_options(const struct tls_context *c, SSL_CTX *ctx)
{
	(void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_SSLv3 |
		SSL_OP_CIPHER_SERVER_PREFERENCE |
		SSL_OP_PRIORITIZE_CHACHA | /* for those who put it first, having no AES unit */
		SSL_OP_IGNORE_UNEXPECTED_EOF | /* else a FIN without close_notify kills our write side too */
		SSL_OP_CLEANSE_PLAINTEXT); /* passwords; the stream clears it behind the head */
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
		SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
		SSL_MODE_NO_AUTO_CHAIN); /* the file is served as it is, and nothing is looked for in a handshake */
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	/* a const context, because callbacks only read it */
	SSL_CTX_set_alpn_select_cb(ctx, on_alpn, (void *)(uintptr_t)c);
	(void)SSL_CTX_set_tlsext_servername_callback(ctx, on_server_name);
	(void)SSL_CTX_set_tlsext_servername_arg(ctx, (void *)(uintptr_t)c);
}

static bool set_groups(SSL_CTX *ctx, const char *list)
{
	/* the macro SSL_CTX_set1_groups_list drops a const */
	return SSL_CTX_ctrl(ctx, SSL_CTRL_SET_GROUPS_LIST, 0, (void *)(uintptr_t)list) == 1;
}

static SSL_CTX *ctx_new(const struct tls_context *c, const struct sni_set *set)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (ctx == NULL)
		return NULL;
	set_options(c, ctx);
	if (SSL_CTX_set_min_proto_version(ctx, c->min_version_13 ? TLS1_3_VERSION : TLS1_2_VERSION) != 1 ||
		SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 || SSL_CTX_set_cipher_list(ctx, suites_12) != 1 ||
		SSL_CTX_set_ciphersuites(ctx, suites_13) != 1 || !set_groups(ctx, c->groups) ||
		SSL_CTX_set_session_id_context(ctx, session_id_context, sizeof session_id_context - 1) != 1 ||
		SSL_CTX_set_max_early_data(ctx, 0) != 1 || SSL_CTX_set_recv_max_early_data(ctx, 0) != 1 ||
		!ticketcb_install(c->tickets, ctx, c->lifetime_s))
		goto fail;
	for (size_t i = 0; i < set->count; i++)
		if (!use_cert(ctx, c->store->certs[set->certs[i]]))
			goto fail;
	return ctx;
fail:
	SSL_CTX_free(ctx);
	return NULL;
}

/* --- a context --- */

static void context_free(struct tls_context *c)
{
	/* the primary is on its way down, or was never made */
	for (size_t i = 1; i < c->context_count; i++)
		SSL_CTX_free(c->contexts[i]);
	mem_free(c->contexts);
	store_unref(c->store);
	tls_tickets_unref(c->tickets);
	OBJ_FINI(c);
	mem_free(c);
}

static void on_primary_free(void *parent ADIT_UNUSED, void *ptr, CRYPTO_EX_DATA *ad ADIT_UNUSED, int index ADIT_UNUSED,
	long argl ADIT_UNUSED, void *argp ADIT_UNUSED)
{
	if (ptr != NULL)
		context_free(ptr);
}

static void make_index(void)
{
	context_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_primary_free);
	http2_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static bool build(struct tls_context *c)
{
	size_t count = sni_set_count(c->store->sni);

	c->contexts = mem_array(count, sizeof(SSL_CTX *));
	if (c->contexts == NULL)
		return false;
	for (; c->context_count < count; c->context_count++) {
		c->contexts[c->context_count] = ctx_new(c, sni_set_at(c->store->sni, c->context_count));
		if (c->contexts[c->context_count] == NULL)
			return false;
	}
	return true;
}

/* Builds and hands the context to its primary. On failure everything is gone. */
static struct tls_context *finish(struct tls_context *c)
{
	bool ok;

	(void)pthread_once(&context_once, make_index);
	ok = context_index >= 0 && http2_index >= 0 && build(c);
	c->primary = c->context_count > 0 ? c->contexts[0] : NULL;
	ok = ok && SSL_CTX_set_ex_data(c->primary, context_index, c) == 1;
	if (!ok) {
		SSL_CTX *primary = c->primary;

		context_free(c);
		SSL_CTX_free(primary);
		return NULL;
	}
	return c;
}

static struct tls_context *context_alloc(struct store *store, struct tls_tickets *tickets)
{
	struct tls_context *c = mem_alloc(sizeof *c);

	if (c == NULL)
		return NULL;
	OBJ_INIT(c, CONTEXT_MAGIC);
	atomic_init(&c->refs, 1);
	(void)atomic_fetch_add(&store->refs, 1);
	c->store = store;
	c->tickets = tls_tickets_ref(tickets);
	return c;
}

/* A list with one unknown name is refused as a whole, so each is tried. */
static void choose_groups(char out[static GROUPS_MAX_BYTES])
{
	SSL_CTX *trial = SSL_CTX_new(TLS_server_method());
	size_t n = 0;

	out[0] = '\0';
	for (size_t i = 0; trial != NULL && i < sizeof group_names / sizeof group_names[0]; i++)
		if (set_groups(trial, group_names[i]))
			n += (size_t)snprintf(out + n, GROUPS_MAX_BYTES - n, "%s%s", n ? ":" : "", group_names[i]);
	SSL_CTX_free(trial);
	ERR_clear_error();
}

static void add_protocol(struct protocols *to, const char *name)
{
	size_t n = strlen(name);

	ADIT_ASSERT(n > 0 && to->n + 1 + n <= sizeof to->list);
	to->list[to->n] = (unsigned char)n;
	memcpy(to->list + to->n + 1, name, n);
	to->n += 1 + (unsigned)n;
}

static void encode_protocols(struct tls_context *c, const char *const *protocols)
{
	bool h2 = false;

	for (; *protocols != NULL; protocols++) {
		add_protocol(&c->protocols[TLS_HTTP2_FIRST], *protocols);
		if (strcmp(*protocols, "h2") == 0) {
			h2 = true;
			continue;
		}
		add_protocol(&c->protocols[TLS_HTTP2_OFF], *protocols);
		add_protocol(&c->protocols[TLS_HTTP2_LAST], *protocols);
	}
	if (h2)
		add_protocol(&c->protocols[TLS_HTTP2_LAST], "h2");
}

struct tls_context *tls_context_new(const struct conf *conf, const char *const *protocols, struct tls_tickets *tickets,
	struct conf_errors *errors)
{
	struct tls_context *c = NULL;
	char reason[SSLERR_TEXT_SIZE];
	struct store *store;

	if (conf->tls.certificate_count == 0) {
		conf_errors_add(errors, "tls.certificates: there is none; give the chain and key of at least one");
		return NULL;
	}
	store = store_load(conf, errors);
	if (store == NULL)
		return NULL;
	ERR_clear_error();
	c = context_alloc(store, tickets);
	if (c != NULL) {
		c->min_version_13 = conf->tls.min_version_13;
		c->lifetime_s = conf->tls.ticket_lifetime_ms / 1000;
		choose_groups(c->groups);
		encode_protocols(c, protocols ? protocols : default_protocols);
		c = finish(c);
	}
	if (c == NULL)
		conf_errors_add(errors, "tls: the TLS context cannot be made: %s",
			ERR_peek_error() ? sslerr_drain(reason, sizeof reason) : "out of memory");
	store_unref(store);
	return c;
}

struct tls_context *tls_context_clone(const struct tls_context *of)
{
	struct tls_context *c;

	OBJ_CHECK(of, CONTEXT_MAGIC);
	c = context_alloc(of->store, of->tickets);
	if (c != NULL) {
		c->min_version_13 = of->min_version_13;
		c->lifetime_s = of->lifetime_s;
		memcpy(c->protocols, of->protocols, sizeof c->protocols);
		memcpy(c->groups, of->groups, sizeof c->groups);
		c = finish(c);
	}
	ERR_clear_error();
	return c;
}

struct tls_context *tls_context_ref(struct tls_context *c)
{
	OBJ_CHECK(c, CONTEXT_MAGIC);
	(void)atomic_fetch_add(&c->refs, 1);
	return c;
}

void tls_context_unref(struct tls_context *c)
{
	if (c == NULL)
		return;
	OBJ_CHECK(c, CONTEXT_MAGIC);
	if (atomic_fetch_sub(&c->refs, 1) == 1)
		SSL_CTX_free(c->primary);
}

SSL *tls_context_ssl(struct tls_context *c, void *app, enum tls_http2 http2)
{
	SSL *ssl;

	OBJ_CHECK(c, CONTEXT_MAGIC);
	ssl = SSL_new(c->primary);
	if (ssl == NULL || SSL_set_app_data(ssl, app) != 1 ||
	    (http2 != TLS_HTTP2_OFF && SSL_set_ex_data(ssl, http2_index, (void *)(uintptr_t)http2) != 1)) {
		SSL_free(ssl);
		ERR_clear_error();
		return NULL;
	}
	SSL_set_accept_state(ssl);
	return ssl;
}

SSL_CTX *context_default(const struct tls_context *c)
{
	return c->primary;
}

size_t context_count(const struct tls_context *c)
{
	return c->context_count;
}
