/* Certificates by OpenSSL's own means, and handshakes over a BIO pair. */
#include "unit/tls/pki.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

void pki_setup(void)
{
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(dir, sizeof dir, "%s/adit-tls-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	cr_assert_not_null(mkdtemp(dir));
}

void pki_teardown(void)
{
	DIR *d = opendir(dir);
	char path[PKI_PATH_SIZE];

	for (struct dirent *e = d ? readdir(d) : NULL; e != NULL; e = readdir(d))
		if (e->d_name[0] != '.')
			(void)unlink(pki_path(path, e->d_name));
	if (d != NULL)
		(void)closedir(d);
	(void)rmdir(dir);
}

const char *pki_path(char buf[static PKI_PATH_SIZE], const char *name)
{
	cr_assert_lt((size_t)snprintf(buf, PKI_PATH_SIZE, "%.60s/%.60s", dir, name), (size_t)PKI_PATH_SIZE);
	return buf;
}

static FILE *create(const char *name)
{
	char path[PKI_PATH_SIZE];
	FILE *f = fopen(pki_path(path, name), "w");

	cr_assert_not_null(f);
	return f;
}

void pki_write(const char *name, const void *bytes, size_t n)
{
	FILE *f = create(name);

	cr_assert_eq(fwrite(bytes, 1, n, f), n);
	cr_assert_eq(fchmod(fileno(f), 0600), 0);
	cr_assert_eq(fclose(f), 0);
}

EVP_PKEY *pki_key(const char *kind)
{
	EVP_PKEY *key;

	if (strncmp(kind, "RSA ", 4) == 0)
		key = EVP_RSA_gen((unsigned)strtoul(kind + 4, NULL, 10));
	else if (strncmp(kind, "ED", 2) == 0 || kind[0] == 'X')
		key = EVP_PKEY_Q_keygen(NULL, NULL, kind);
	else
		key = EVP_EC_gen(kind);
	cr_assert_not_null(key, "%s", kind);
	return key;
}

static void add_extension(X509 *x, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
	e = X509V3_EXT_nconf_nid(NULL, &ctx, nid, value);
	cr_assert_not_null(e, "%s", value);
	cr_assert_eq(X509_add_ext(x, e, -1), 1);
	X509_EXTENSION_free(e);
}

X509 *pki_sign(EVP_PKEY *key, const struct pki_cert *what)
{
	X509 *x = X509_new();
	X509_NAME *subject;
	const char *cn = what->cn ? what->cn : "test";
	bool usual = what->from_s == 0 && what->until_s == 0;
	EVP_PKEY *by = what->issuer_key ? what->issuer_key : key;
	static long serial;
	int kind = EVP_PKEY_get_base_id(by);
	const EVP_MD *md = kind == EVP_PKEY_ED25519 || kind == EVP_PKEY_ED448 ? NULL :
		EVP_get_digestbyname(what->digest ? what->digest : "SHA256");

	cr_assert_not_null(x);
	cr_assert(X509_set_version(x, X509_VERSION_3));
	cr_assert(ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial));
	cr_assert_not_null(X509_gmtime_adj(X509_getm_notBefore(x), usual ? -86400 : what->from_s));
	cr_assert_not_null(X509_gmtime_adj(X509_getm_notAfter(x), usual ? 365 * 86400 : what->until_s));
	subject = X509_get_subject_name(x);
	cr_assert(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0));
	cr_assert(X509_set_issuer_name(x, what->issuer ? X509_get_subject_name(what->issuer) : subject));
	cr_assert(X509_set_pubkey(x, key));
	if (what->ca)
		add_extension(x, NID_basic_constraints, "critical,CA:TRUE");
	if (what->alt != NULL)
		add_extension(x, NID_subject_alt_name, what->alt);
	if (what->eku != NULL)
		add_extension(x, NID_ext_key_usage, what->eku);
	cr_assert_gt(X509_sign(x, by, md), 0);
	return x;
}

void pki_write_pair(const char *name, X509 *leaf, X509 *chain, EVP_PKEY *key)
{
	char file[64];
	FILE *f;

	(void)snprintf(file, sizeof file, "%s.crt", name);
	f = create(file);
	cr_assert(PEM_write_X509(f, leaf));
	if (chain != NULL)
		cr_assert(PEM_write_X509(f, chain));
	cr_assert_eq(fclose(f), 0);
	(void)snprintf(file, sizeof file, "%s.key", name);
	f = create(file);
	cr_assert(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
	cr_assert_eq(fchmod(fileno(f), 0600), 0);
	cr_assert_eq(fclose(f), 0);
}

void pki_make(const char *name, const char *kind, const char *alt)
{
	EVP_PKEY *key = pki_key(kind);
	X509 *x = pki_sign(key, &(struct pki_cert){ .cn = name, .alt = alt });

	pki_write_pair(name, x, NULL, key);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* --- handshakes --- */

static int on_session(SSL *ssl, SSL_SESSION *session)
{
	struct shake *s = SSL_get_app_data(ssl);

	SSL_SESSION_free(s->got);
	s->got = session;
	return 1;
}

/* Messages and not sessions are counted: the session callback is silent about tickets renewed in TLS 1.2. */
static void on_message(int written, int version, int type, const void *bytes, size_t n, SSL *ssl, void *arg)
{
	struct shake *s = SSL_get_app_data(ssl);

	(void)version;
	(void)arg;
	if (!written && type == SSL3_RT_HANDSHAKE && n > 0 && *(const unsigned char *)bytes == SSL3_MT_NEWSESSION_TICKET)
		s->tickets++;
}

static void on_info(const SSL *ssl, int where, int ret)
{
	struct shake *s = SSL_get_app_data(ssl);

	if (where == SSL_CB_READ_ALERT && (ret & 0xff) != SSL_AD_CLOSE_NOTIFY)
		s->alert = ret & 0xff;
}

static SSL *client_new(SSL_CTX *ctx, struct shake *s)
{
	SSL *ssl;

	/* what the server refuses has to be its own decision */
	SSL_CTX_set_security_level(ctx, 0);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_session);
	SSL_CTX_set_info_callback(ctx, on_info);
	SSL_CTX_set_msg_callback(ctx, on_message);
	cr_assert(SSL_CTX_set_min_proto_version(ctx, s->version ? s->version : TLS1_VERSION));
	cr_assert(SSL_CTX_set_max_proto_version(ctx, s->version));
	if (s->ciphers != NULL)
		cr_assert(SSL_CTX_set_cipher_list(ctx, s->ciphers));
	if (s->suites != NULL)
		cr_assert(SSL_CTX_set_ciphersuites(ctx, s->suites));
	if (s->groups != NULL)
		cr_assert(SSL_CTX_ctrl(ctx, SSL_CTRL_SET_GROUPS_LIST, 0, (void *)(uintptr_t)s->groups));
	if (s->sigalgs != NULL)
		cr_assert(SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SIGALGS_LIST, 0, (void *)(uintptr_t)s->sigalgs));
	ssl = SSL_new(ctx);
	cr_assert_not_null(ssl);
	(void)SSL_set_app_data(ssl, s);
	if (s->sni != NULL)
		cr_assert(SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)s->sni));
	if (s->alpn != NULL)
		cr_assert_eq(SSL_set_alpn_protos(ssl, s->alpn, (unsigned)s->alpn_n), 0);
	if (s->session != NULL) {
		/* OpenSSL's client refuses to offer a session made under another name; a server must expect it */
		(void)SSL_SESSION_set1_hostname(s->session, s->sni);
		cr_assert(SSL_set_session(ssl, s->session));
	}
	SSL_set_connect_state(ssl);
	return ssl;
}

static void note(SSL *client, SSL *server, struct shake *s)
{
	X509 *peer = SSL_get0_peer_certificate(client);
	const unsigned char *alpn;
	const char *sni = SSL_get_servername(server, TLSEXT_NAMETYPE_host_name);
	unsigned n;

	s->resumed = SSL_session_reused(client) == 1;
	cr_assert_eq(SSL_session_reused(server), SSL_session_reused(client));
	s->negotiated = SSL_version(client);
	s->group = (int)SSL_get_negotiated_group(client);
	(void)snprintf(s->cipher, sizeof s->cipher, "%s", SSL_get_cipher_name(client));
	SSL_get0_alpn_selected(client, &alpn, &n);
	(void)snprintf(s->chosen, sizeof s->chosen, "%.*s", (int)n, n ? (const char *)alpn : "");
	(void)snprintf(s->server_saw_sni, sizeof s->server_saw_sni, "%s", sni ? sni : "");
	if (peer != NULL) {
		(void)X509_NAME_get_text_by_NID(X509_get_subject_name(peer), NID_commonName, s->peer_cn, sizeof s->peer_cn);
		s->peer_key = EVP_PKEY_get_base_id(X509_get0_pubkey(peer));
	}
}

void shake_hands(SSL *server, struct shake *s)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *client = client_new(ctx, s);
	BIO *near, *far;
	int a = 0, b = 0;
	char byte = 'x';

	cr_assert_not_null(server);
	cr_assert(BIO_new_bio_pair(&near, 1 << 17, &far, 1 << 17));
	SSL_set_bio(client, near, near);
	SSL_set_bio(server, far, far);
	s->ok = false;
	s->alert = -1;
	for (int turn = 0; turn < 20 && !(a == 1 && b == 1); turn++) {
		a = SSL_do_handshake(client);
		b = SSL_do_handshake(server);
	}
	if (a == 1 && b == 1) {
		s->ok = SSL_write(server, &byte, 1) == 1 && SSL_read(client, &byte, 1) == 1 && SSL_write(client, &byte, 1) == 1 &&
			SSL_read(server, &byte, 1) == 1;
		note(client, server, s);
		(void)SSL_shutdown(client);
		(void)SSL_shutdown(server);
	}
	SSL_free(client);
	SSL_free(server);
	SSL_CTX_free(ctx);
	ERR_clear_error();
}

void shake_drop(struct shake *s)
{
	SSL_SESSION_free(s->got);
	s->got = NULL;
}
