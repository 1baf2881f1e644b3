/* Versions, suites, groups, ALPN, SNI and certificates, as a client sees them; the life of contexts. */
#include "tls/context_priv.h"

#include "adit/base/mem.h"
#include "unit/tls/pki.h"

#include <criterion/criterion.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

TestSuite(tls_context, .init = pki_setup, .fini = pki_teardown);

enum { CERTS_MAX = 4 };

static char chain_paths[CERTS_MAX][PKI_PATH_SIZE], key_paths[CERTS_MAX][PKI_PATH_SIZE];
static struct conf_certificate certificates[CERTS_MAX];
static struct conf conf;

static void use(size_t i, const char *name)
{
	char file[80];

	(void)snprintf(file, sizeof file, "%s.crt", name);
	(void)pki_path(chain_paths[i], file);
	(void)snprintf(file, sizeof file, "%s.key", name);
	(void)pki_path(key_paths[i], file);
	conf.tls.ticket_lifetime_ms = 3600000;
	certificates[i] = (struct conf_certificate){ .chain = chain_paths[i], .key = key_paths[i] };
	conf.tls.certificates = certificates;
	if (conf.tls.certificate_count <= i)
		conf.tls.certificate_count = i + 1;
}

static struct tls_tickets *tickets_new(void)
{
	char error[256];
	struct tls_tickets *t = tls_tickets_new(NULL, 3600000, error, sizeof error);

	cr_assert_not_null(t, "%s", error);
	return t;
}

static struct tls_context *context_new(void)
{
	struct tls_tickets *tickets = tickets_new();
	struct conf_errors errors = { 0 };
	struct tls_context *c = tls_context_new(&conf, NULL, tickets, &errors);

	cr_assert_not_null(c, "%s", errors.count ? errors.text[0] : "");
	cr_assert_eq(errors.count, 0);
	tls_tickets_unref(tickets);
	return c;
}

static struct shake shaken(struct tls_context *c, struct shake s)
{
	enum tls_http2 http2 = s.without_h2 ? TLS_HTTP2_OFF : s.h2_last ? TLS_HTTP2_LAST : TLS_HTTP2_FIRST;

	shake_hands(tls_context_ssl(c, NULL, http2), &s);
	shake_drop(&s);
	cr_assert_eq(ERR_peek_error(), 0);
	return s;
}

Test(tls_context, versions)
{
	static const struct {
		int version;
		bool min_13, ok;
	} rows[] = {
		{ TLS1_VERSION, false, false }, { TLS1_1_VERSION, false, false }, { TLS1_2_VERSION, false, true },
		{ TLS1_3_VERSION, false, true }, { 0, false, true }, { TLS1_2_VERSION, true, false },
		{ TLS1_3_VERSION, true, true },
	};

	pki_make("a", "P-256", "DNS:proxy.test");
	use(0, "a");
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct tls_context *c;
		struct shake s;

		conf.tls.min_version_13 = rows[i].min_13;
		c = context_new();
		s = shaken(c, (struct shake){ .version = rows[i].version });
		cr_expect_eq(s.ok, rows[i].ok, "row %zu", i);
		if (rows[i].ok)
			cr_expect_eq(s.negotiated, rows[i].version ? rows[i].version : TLS1_3_VERSION, "row %zu", i);
		else
			cr_expect_eq(s.alert, SSL_AD_PROTOCOL_VERSION, "row %zu: %d", i, s.alert);
		tls_context_unref(c);
	}
}

Test(tls_context, suites)
{
	static const struct {
		int version;
		const char *ciphers, *suites, *chosen; /* chosen NULL: refused */
	} rows[] = {
		{ TLS1_2_VERSION, "ALL:COMPLEMENTOFALL:!aNULL", NULL, "ECDHE-ECDSA-AES128-GCM-SHA256" },
		{ TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", NULL,
			"ECDHE-ECDSA-AES128-GCM-SHA256" },
		{ TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256", NULL,
			"ECDHE-ECDSA-CHACHA20-POLY1305" },
		{ TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA256", NULL, NULL }, /* CBC */
		{ TLS1_2_VERSION, "ECDHE-ECDSA-AES256-CCM", NULL, NULL },
		{ TLS1_2_VERSION, "AES128-GCM-SHA256", NULL, NULL }, /* no forward secrecy */
		{ TLS1_2_VERSION, "DHE-RSA-AES128-GCM-SHA256", NULL, NULL },
		{ TLS1_3_VERSION, NULL, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256" },
		{ TLS1_3_VERSION, NULL, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384" },
		{ TLS1_3_VERSION, NULL, "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
			"TLS_CHACHA20_POLY1305_SHA256" },
		{ TLS1_3_VERSION, NULL, "TLS_AES_128_CCM_SHA256", NULL },
	};
	struct tls_context *c;

	pki_make("a", "P-256", "DNS:proxy.test");
	use(0, "a");
	c = context_new();
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct shake s = shaken(c, (struct shake){ .version = rows[i].version, .ciphers = rows[i].ciphers,
			.suites = rows[i].suites });

		cr_expect_eq(s.ok, rows[i].chosen != NULL, "row %zu", i);
		if (rows[i].chosen != NULL)
			cr_expect_str_eq(s.cipher, rows[i].chosen, "row %zu", i);
		else
			cr_expect_eq(s.alert, SSL_AD_HANDSHAKE_FAILURE, "row %zu: %d", i, s.alert);
	}
	tls_context_unref(c);
}

Test(tls_context, groups)
{
	static const struct {
		const char *offered;
		int chosen; /* 0: refused */
	} rows[] = {
		{ "X25519", NID_X25519 }, { "P-256", NID_X9_62_prime256v1 }, { "P-256:X25519", NID_X9_62_prime256v1 },
		{ "P-384:X25519", NID_X25519 }, /* a HelloRetryRequest */
		{ "P-384", 0 }, { "ffdhe2048", 0 },
	};
	struct tls_context *c;

	pki_make("a", "P-256", "DNS:proxy.test");
	use(0, "a");
	c = context_new();
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct shake s = shaken(c, (struct shake){ .version = TLS1_3_VERSION, .groups = rows[i].offered,
			.sni = "proxy.test" });

		cr_expect_eq(s.ok, rows[i].chosen != 0, "%s", rows[i].offered);
		if (rows[i].chosen != 0)
			cr_expect_eq(s.group, rows[i].chosen, "%s: %d", rows[i].offered, s.group);
	}
	tls_context_unref(c);
}

Test(tls_context, alpn)
{
	static const struct {
		const char *offered;
		size_t n;
		const char *chosen[3]; /* with h2 first, without it, with it last; NULL: refused */
	} rows[] = {
		{ NULL, 0, { "", "", "" } },
		{ "\x08http/1.1", 9, { "http/1.1", "http/1.1", "http/1.1" } },
		{ "\x02h2\x08http/1.1", 12, { "h2", "http/1.1", "http/1.1" } },
		{ "\x08http/1.1\x02h2", 12, { "h2", "http/1.1", "http/1.1" } },
		{ "\x02h2", 3, { "h2", NULL, "h2" } },
		{ "\x03h2c\x08http/1.0", 13, { "http/1.0", "http/1.0", "http/1.0" } },
		{ "\x08http/1.0\x08http/1.1", 18, { "http/1.1", "http/1.1", "http/1.1" } },
		{ "\x08http/1.0", 9, { "http/1.0", "http/1.0", "http/1.0" } },
		{ "\x08http 1.1", 9, { "http 1.1", "http 1.1", "http 1.1" } },
		{ "\x08HTTP/1.1", 9, { NULL, NULL, NULL } },
		{ "\x02H2", 3, { NULL, NULL, NULL } },
		{ "\x07http/1.\x01" "1", 10, { NULL, NULL, NULL } },
		{ "\x09http/1.1\0", 10, { NULL, NULL, NULL } },
		{ "\x01\0", 2, { NULL, NULL, NULL } },
	};
	struct tls_context *c;

	pki_make("a", "P-256", "DNS:proxy.test");
	use(0, "a");
	c = context_new();
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		/* on one context in turns: the listener decides, for each connection */
		for (size_t n = 0; n < 3 * sizeof rows / sizeof rows[0]; n++) {
			size_t i = n / 3;
			const char *chosen = rows[i].chosen[n % 3];
			struct shake s = shaken(c, (struct shake){ .version = version, .alpn = (const unsigned char *)rows[i].offered,
				.alpn_n = rows[i].n, .without_h2 = n % 3 == 1, .h2_last = n % 3 == 2 });

			cr_expect_eq(s.ok, chosen != NULL, "row %zu", i);
			if (chosen != NULL)
				cr_expect_str_eq(s.chosen, chosen, "row %zu", i);
			else
				cr_expect_eq(s.alert, SSL_AD_NO_APPLICATION_PROTOCOL, "row %zu: %d", i, s.alert);
		}
	}
	tls_context_unref(c);
}

Test(tls_context, protocols_are_a_parameter)
{
	static const char *const h2_first[] = { "h2", "http/1.1", NULL };
	struct tls_tickets *tickets = tickets_new();
	struct conf_errors errors = { 0 };
	struct tls_context *c, *clone;
	struct shake s;

	pki_make("a", "P-256", "DNS:proxy.test");
	pki_make("b", "P-256", "DNS:other.test");
	use(0, "a");
	use(1, "b");
	c = tls_context_new(&conf, h2_first, tickets, &errors);
	cr_assert_not_null(c);
	clone = tls_context_clone(c);
	cr_assert_not_null(clone);
	for (int i = 0; i < 2; i++) {
		s = shaken(i ? clone : c, (struct shake){ .alpn = (const unsigned char *)"\x08http/1.1\x02h2", .alpn_n = 12,
			.sni = "other.test" });
		cr_expect_str_eq(s.chosen, "h2");
		/* also where another name's certificates took over */
		s = shaken(i ? clone : c, (struct shake){ .alpn = (const unsigned char *)"\x08http/1.1\x02h2", .alpn_n = 12,
			.sni = "other.test", .without_h2 = true });
		cr_expect_str_eq(s.chosen, "http/1.1");
	}
	tls_context_unref(c);
	tls_context_unref(clone);
	tls_tickets_unref(tickets);
}

Test(tls_context, certificate_by_name)
{
	static const struct {
		const char *sni, *cn;
	} rows[] = {
		{ NULL, "first" },
		{ "unknown.test", "first" },
		{ "a.first.test", "first" },
		{ "A.FIRST.Test", "first" },
		{ "one.wild.test", "wild" },
		{ "ONE.wild.TEST", "wild" },
		{ "one.wild.test.", "wild" },
		{ "two.one.wild.test", "first" }, /* one label only */
		{ "wild.test", "first" },
		{ ".wild.test", "first" },
		{ "*.wild.test", "first" },
		{ "x.wild.test", "exact" }, /* before the wildcard */
		{ "127.0.0.1", "first" },
		{ "..", "first" }, { ".", "first" }, { "\x01\x7f\xff/../%s", "first" },
		{ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaa.wild.test", "wild" }, /* 255 bytes */
	};
	struct tls_context *c;

	pki_make("first", "P-256", "DNS:a.first.test");
	pki_make("wild", "P-256", "DNS:*.wild.test");
	pki_make("exact", "P-256", "DNS:x.wild.test");
	use(0, "first");
	use(1, "wild");
	use(2, "exact");
	c = context_new();
	cr_expect_eq(context_count(c), 3);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
			struct shake s = shaken(c, (struct shake){ .version = version, .sni = rows[i].sni });

			cr_assert(s.ok, "%s", rows[i].sni);
			cr_expect_str_eq(s.peer_cn, rows[i].cn, "%s: %s", rows[i].sni, s.peer_cn);
			cr_expect_str_eq(s.server_saw_sni, rows[i].sni ? rows[i].sni : "");
		}
	}
	tls_context_unref(c);
}

Test(tls_context, look_up_takes_any_bytes)
{
	struct tls_context *c;
	char all[400];

	pki_make("first", "P-256", "DNS:a.first.test");
	pki_make("wild", "P-256", "DNS:*.wild.test");
	use(0, "first");
	use(1, "wild");
	c = context_new();
	memset(all, 'a', sizeof all);
	memcpy(all + 246, ".wild.test", 10);
	for (size_t n = 0; n <= sizeof all; n++)
		cr_expect_eq(context_for_name(c, all, n), context_default(c), "%zu", n);
	for (size_t n = 1; n < 246; n++)
		cr_expect_eq(context_for_name(c, all + 246 - n, n + 10) != context_default(c), n + 10 <= 255, "%zu", n);
	for (int b = 0; b < 256; b++) {
		char name[] = "x.wild.test";

		name[5] = (char)b;
		cr_expect_eq(context_for_name(c, name, sizeof name - 1) != context_default(c), b == 'd' || b == 'D', "%d", b);
	}
	cr_expect_eq(context_for_name(c, "x\0.wild.test", 12), context_default(c));
	tls_context_unref(c);
}

Test(tls_context, key_types_of_one_name_share)
{
	static const char rsa_only[] = "RSA-PSS+SHA256:RSA+SHA256", both[] = "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256";
	static const struct {
		const char *sni, *sigalgs;
		int version, key;
	} rows[] = {
		{ "proxy.test", both, TLS1_3_VERSION, EVP_PKEY_EC }, { "proxy.test", rsa_only, TLS1_3_VERSION, EVP_PKEY_RSA },
		{ "proxy.test", both, TLS1_2_VERSION, EVP_PKEY_EC }, { "proxy.test", rsa_only, TLS1_2_VERSION, EVP_PKEY_RSA },
		{ NULL, rsa_only, TLS1_3_VERSION, EVP_PKEY_RSA }, /* the default has both too */
		{ "old.test", both, TLS1_3_VERSION, EVP_PKEY_RSA }, /* a name of the RSA certificate alone */
		{ "x.wild.test", both, TLS1_3_VERSION, EVP_PKEY_EC }, /* wildcard ECDSA beside exact RSA */
		{ "x.wild.test", rsa_only, TLS1_3_VERSION, EVP_PKEY_RSA },
	};
	struct tls_context *c;

	pki_make("ec", "P-256", "DNS:proxy.test");
	pki_make("rsa", "RSA 2048", "DNS:old.test,DNS:proxy.test,DNS:x.wild.test");
	pki_make("wild", "P-256", "DNS:*.wild.test");
	use(0, "ec");
	use(1, "rsa");
	use(2, "wild");
	c = context_new();
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct shake s = shaken(c, (struct shake){ .version = rows[i].version, .sni = rows[i].sni,
			.sigalgs = rows[i].sigalgs });

		cr_assert(s.ok, "row %zu", i);
		cr_expect_eq(s.peer_key, rows[i].key, "row %zu", i);
	}
	tls_context_unref(c);
}

Test(tls_context, options)
{
	struct tls_context *c;
	SSL *ssl;
	uint64_t options;
	long mode;
	int app;

	pki_make("a", "P-256", "DNS:proxy.test");
	use(0, "a");
	c = context_new();
	ssl = tls_context_ssl(c, &app, TLS_HTTP2_FIRST);
	cr_assert_not_null(ssl);
	options = SSL_get_options(ssl);
	mode = SSL_get_mode(ssl);
	cr_expect(options & SSL_OP_NO_RENEGOTIATION);
	cr_expect(options & SSL_OP_NO_COMPRESSION);
	cr_expect(options & SSL_OP_IGNORE_UNEXPECTED_EOF);
	cr_expect(options & SSL_OP_CLEANSE_PLAINTEXT);
	cr_expect(mode & SSL_MODE_RELEASE_BUFFERS);
	cr_expect(mode & SSL_MODE_ENABLE_PARTIAL_WRITE);
	cr_expect(mode & SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	cr_expect_eq(SSL_CTX_get_session_cache_mode(context_default(c)), SSL_SESS_CACHE_OFF);
	cr_expect_eq(SSL_get_max_early_data(ssl), 0);
	cr_expect_eq(SSL_get_app_data(ssl), &app);
	cr_expect(SSL_is_server(ssl));
	SSL_free(ssl);
	tls_context_unref(c);
}

/* A reload while a client is in the middle of its handshake. */
Test(tls_context, outlives_its_owner)
{
	struct tls_context *c, *clone;
	struct shake s = { .sni = "other.test", .alpn = (const unsigned char *)"\x08http/1.1", .alpn_n = 9 };
	SSL *first, *second;

	pki_make("a", "P-256", "DNS:proxy.test");
	pki_make("b", "P-256", "DNS:other.test");
	use(0, "a");
	use(1, "b");
	c = context_new();
	clone = tls_context_clone(c);
	cr_assert_not_null(clone);
	first = tls_context_ssl(c, NULL, TLS_HTTP2_FIRST);
	second = tls_context_ssl(clone, NULL, TLS_HTTP2_FIRST);
	tls_context_unref(tls_context_ref(c));
	tls_context_unref(c);
	tls_context_unref(clone);
	for (int i = 0; i < 2; i++) {
		shake_hands(i ? second : first, &s);
		cr_expect(s.ok);
		cr_expect_str_eq(s.peer_cn, "b");
		shake_drop(&s);
	}
}

Test(tls_context, says_all_errors_at_once)
{
	struct tls_tickets *tickets = tickets_new();
	struct conf_errors errors = { 0 };
	char path[] = "adit.yaml";

	pki_make("a", "P-256", "DNS:proxy.test");
	pki_make("b", "P-256", "DNS:proxy.test");
	use(0, "a");
	use(1, "b");
	certificates[1].key = key_paths[0];
	use(2, "absent");
	conf.path = path;
	certificates[1].where = (struct conf_where){ 12, 5 };
	cr_assert_null(tls_context_new(&conf, NULL, tickets, &errors));
	cr_assert_eq(errors.count, 3);
	cr_expect_eq(strncmp(errors.text[0], "adit.yaml:12:5: tls.certificates: ", 34), 0, "%s", errors.text[0]);
	cr_expect_not_null(strstr(errors.text[0], "does not belong"), "%s", errors.text[0]);
	cr_expect_eq(strncmp(errors.text[1], "tls.certificates: ", 18), 0, "%s", errors.text[1]);
	cr_expect_not_null(strstr(errors.text[2], "absent.key"), "%s", errors.text[2]);
	conf_errors_free(&errors);

	errors = (struct conf_errors){ 0 };
	conf.tls.certificate_count = 0;
	cr_assert_null(tls_context_new(&conf, NULL, tickets, &errors));
	cr_assert_eq(errors.count, 1);
	conf_errors_free(&errors);
	tls_tickets_unref(tickets);
}

Test(tls_context, out_of_memory)
{
	struct tls_tickets *tickets = tickets_new();
	struct tls_context *c = NULL;
	unsigned long n;

	pki_make("a", "P-256", "DNS:proxy.test,IP:127.0.0.1");
	pki_make("b", "P-256", "DNS:other.test");
	use(0, "a");
	use(1, "b");
	for (n = 1; c == NULL; n++) {
		struct conf_errors errors = { 0 };
		bool hit;

		mem_fault_set(n, false);
		c = tls_context_new(&conf, NULL, tickets, &errors);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert(hit || c != NULL, "%lu: %s", n, errors.count ? errors.text[0] : "");
		cr_expect_eq(ERR_peek_error(), 0);
		conf_errors_free(&errors);
	}
	cr_expect_gt(n, 8);
	for (n = 1;; n++) {
		struct tls_context *clone;

		mem_fault_set(n, false);
		clone = tls_context_clone(c);
		if (!mem_fault_hit())
			n = 0;
		mem_fault_set(0, false);
		tls_context_unref(clone);
		if (n == 0)
			break;
		cr_expect_null(clone);
	}
	tls_context_unref(c);
	tls_tickets_unref(tickets);
}
