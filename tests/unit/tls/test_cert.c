/* What is said about good and bad certificate files. */
#include "adit/tls/cert.h"

#include "adit/base/mem.h"
#include "unit/tls/pki.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(tls_cert, .init = pki_setup, .fini = pki_teardown);

struct heard {
	int errors, warnings;
	char text[4096];
};

static void hear(void *ctx, enum tls_cert_level level, const char *sentence)
{
	struct heard *h = ctx;
	size_t n = strlen(h->text);

	*(level == TLS_CERT_ERROR ? &h->errors : &h->warnings) += 1;
	(void)snprintf(h->text + n, sizeof h->text - n, "%s\n", sentence);
}

static struct tls_cert *load(const char *chain, const char *key, struct heard *h)
{
	char chain_path[PKI_PATH_SIZE], key_path[PKI_PATH_SIZE];
	struct tls_cert *c;

	*h = (struct heard){ 0 };
	c = tls_cert_load(pki_path(chain_path, chain), key ? pki_path(key_path, key) : NULL, hear, h);
	cr_expect_eq(c == NULL, h->errors > 0, "%s", h->text);
	cr_expect_eq(ERR_peek_error(), 0);
	return c;
}

static void expect_error(const char *chain, const char *key, const char *file, const char *words)
{
	struct heard h;
	struct tls_cert *c = load(chain, key, &h);
	char path[PKI_PATH_SIZE];

	cr_expect_null(c, "%s %s", chain, key);
	cr_expect_eq(h.errors, 1, "%s", h.text);
	cr_expect_not_null(strstr(h.text, words), "%s", h.text);
	(void)pki_path(path, file);
	cr_expect_eq(strncmp(h.text, path, strlen(path)), 0, "%s", h.text);
	tls_cert_free(c);
}

static void expect_warning(const char *name, const char *words)
{
	char chain[64], key[64];
	struct heard h;
	struct tls_cert *c;

	(void)snprintf(chain, sizeof chain, "%s.crt", name);
	(void)snprintf(key, sizeof key, "%s.key", name);
	c = load(chain, key, &h);
	cr_assert_not_null(c, "%s", h.text);
	cr_expect_eq(h.warnings, words != NULL, "%s", h.text);
	if (words != NULL)
		cr_expect_not_null(strstr(h.text, words), "%s", h.text);
	tls_cert_free(c);
}

Test(tls_cert, good_ones)
{
	static const struct {
		const char *kind, *said;
	} rows[] = { { "P-256", "ECDSA P-256" }, { "P-384", "ECDSA P-384" }, { "RSA 2048", "RSA 2048" } };

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct heard h;
		struct tls_cert *c;

		pki_make("a", rows[i].kind, "DNS:Proxy.TEST,DNS:*.test,IP:127.0.0.1,IP:::1,DNS:last.test");
		c = load("a.crt", "a.key", &h);
		cr_assert_not_null(c, "%s", h.text);
		cr_expect_eq(h.warnings, 0, "%s", h.text);
		cr_expect_str_eq(tls_cert_key_kind(c), rows[i].said);
		cr_assert_eq(tls_cert_name_count(c), 5);
		cr_expect_str_eq(tls_cert_name(c, 0), "proxy.test");
		cr_expect_str_eq(tls_cert_name(c, 1), "*.test");
		cr_expect_str_eq(tls_cert_name(c, 2), "last.test");
		cr_expect_str_eq(tls_cert_name(c, 3), "127.0.0.1");
		cr_expect_str_eq(tls_cert_name(c, 4), "::1");
		cr_expect_leq(llabs((long long)(tls_cert_expires(c) - time(NULL) - 365 * 86400)), 60);
		tls_cert_free(c);
	}
}

Test(tls_cert, key_in_the_chain_file)
{
	EVP_PKEY *key = pki_key("P-256");
	X509 *x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test" });
	char path[PKI_PATH_SIZE];

	for (int key_first = 0; key_first < 2; key_first++) {
		FILE *f = fopen(pki_path(path, "both.pem"), "w");
		struct heard h;
		struct tls_cert *c;

		cr_assert_not_null(f);
		cr_assert(fputs("a comment before\n", f) >= 0);
		if (!key_first)
			cr_assert(PEM_write_X509(f, x));
		cr_assert(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
		if (key_first)
			cr_assert(PEM_write_X509(f, x));
		cr_assert_eq(fchmod(fileno(f), 0600), 0);
		cr_assert_eq(fclose(f), 0);
		c = load("both.pem", NULL, &h);
		cr_expect_not_null(c, "%s", h.text);
		cr_expect_eq(h.warnings, 0, "%s", h.text);
		tls_cert_free(c);
		cr_expect(tls_cert_check(path, path, hear, &h));
	}
	X509_free(x);
	EVP_PKEY_free(key);
}

Test(tls_cert, files_that_are_not_what_they_should_be)
{
	char path[PKI_PATH_SIZE], big[] = "x";
	EVP_PKEY *key = pki_key("P-256");
	X509 *x;
	struct heard h;
	unsigned char *der = NULL;
	int n;
	FILE *f;

	pki_make("a", "P-256", "DNS:a.test");
	pki_make("b", "P-256", "DNS:b.test");
	expect_error("absent.crt", "a.key", "absent.crt", "No such file");
	expect_error("a.crt", "absent.key", "absent.key", "No such file");
	expect_error("a.crt", "b.key", "b.key", "does not belong");
	expect_error("a.key", "a.key", "a.key", "no certificate");
	expect_error("a.crt", "a.crt", "a.crt", "no private key");
	expect_error("a.crt", NULL, "a.crt", "no private key");
	pki_write("empty", "", 0);
	expect_error("empty", "a.key", "empty", "no certificate");
	expect_error("a.crt", "empty", "empty", "no private key");
	cr_assert_eq(mkdir(pki_path(path, "dir"), 0700), 0);
	expect_error("dir", "a.key", "dir", "directory");
	cr_assert_eq(rmdir(path), 0);

	f = fopen(pki_path(path, "big"), "w");
	cr_assert_not_null(f);
	for (size_t i = 0; i <= 1 << 20; i++)
		cr_assert_eq(fwrite(big, 1, 1, f), 1);
	cr_assert_eq(fclose(f), 0);
	expect_error("big", "a.key", "big", "larger than");

	x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:c.test" });
	n = i2d_X509(x, &der);
	cr_assert_gt(n, 0);
	pki_write("x.der", der, (size_t)n);
	OPENSSL_free(der);
	der = NULL;
	n = i2d_PrivateKey(key, &der);
	cr_assert_gt(n, 0);
	pki_write("k.der", der, (size_t)n);
	OPENSSL_free(der);
	expect_error("x.der", "a.key", "x.der", "openssl x509 -inform der");
	expect_error("a.crt", "k.der", "k.der", "openssl pkey -inform der");

	/* both are looked at */
	cr_expect_null(load("absent.crt", "absent.key", &h));
	cr_expect_eq(h.errors, 2);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* Cut anywhere, turned anywhere: never a crash, never silence. */
Test(tls_cert, damaged_files)
{
	char path[PKI_PATH_SIZE], bytes[4096];
	static const char *const files[] = { "a.crt", "a.key" };

	pki_make("a", "P-256", "DNS:a.test");
	for (int which = 0; which < 2; which++) {
		FILE *f = fopen(pki_path(path, files[which]), "r");
		size_t n;

		cr_assert_not_null(f);
		n = fread(bytes, 1, sizeof bytes, f);
		cr_assert_eq(fclose(f), 0);
		for (size_t i = 0; i < n; i += 3) {
			struct heard h;

			pki_write("cut", bytes, i);
			tls_cert_free(load(which ? "a.crt" : "cut", which ? "cut" : "a.key", &h));
			if (i < n - 30)
				cr_expect_eq(h.errors, 1, "%s cut at %zu: %s", files[which], i, h.text);
			bytes[i] ^= 1;
			pki_write("bent", bytes, n);
			tls_cert_free(load(which ? "a.crt" : "bent", which ? "bent" : "a.key", &h));
			bytes[i] ^= 1;
		}
	}
	pki_write("bent", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", 60);
	expect_error("bent", "a.key", "bent", "certificate 1 is damaged: ");
	pki_write("bent", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 60);
	expect_error("a.crt", "bent", "bent", "the private key is damaged: ");
}

/* Nobody is asked: the test has a terminal's place in standard input, and would hang or fail. */
Test(tls_cert, encrypted_keys, .timeout = 20)
{
	char path[PKI_PATH_SIZE], pass[] = "secret";
	EVP_PKEY *key = pki_key("P-256");
	X509 *x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test" });

	pki_write_pair("a", x, NULL, key);
	for (int traditional = 0; traditional < 2; traditional++) {
		FILE *f = fopen(pki_path(path, "encrypted.key"), "w");

		cr_assert_not_null(f);
		if (traditional) {
			BIO *bio = BIO_new_fp(f, BIO_NOCLOSE);

			cr_assert(PEM_write_bio_PrivateKey_traditional(bio, key, EVP_aes_256_cbc(), (unsigned char *)pass, 6, NULL, NULL));
			BIO_free(bio);
		} else {
			cr_assert(PEM_write_PKCS8PrivateKey(f, key, EVP_aes_256_cbc(), pass, 6, NULL, NULL));
		}
		cr_assert_eq(fclose(f), 0);
		expect_error("a.crt", "encrypted.key", "encrypted.key", "is encrypted");
	}
	X509_free(x);
	EVP_PKEY_free(key);
}

Test(tls_cert, weak_and_odd_keys)
{
	pki_make("weak", "RSA 1024", "DNS:a.test");
	expect_error("weak.crt", "weak.key", "weak.key", "1024 bits is too weak");
	pki_make("curve", "secp256k1", "DNS:a.test");
	expect_error("curve.crt", "curve.key", "curve.key", "the curve secp256k1");
	pki_make("ed", "ED25519", "DNS:a.test");
	expect_warning("ed", "browsers do not take Ed25519");
	pki_make("ed448", "ED448", "DNS:a.test");
	expect_warning("ed448", "browsers do not take Ed448");
	/* which cannot sign, not even its own certificate */
	EVP_PKEY *key = pki_key("X25519"), *issuer = pki_key("P-256");
	X509 *x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test", .issuer_key = issuer });
	pki_write_pair("x", x, NULL, key);
	expect_error("x.crt", "x.key", "x.key", "keys of this type are not served");
	X509_free(x);
	EVP_PKEY_free(key);
	EVP_PKEY_free(issuer);
	pki_make("big", "P-521", "DNS:a.test");
	expect_warning("big", "browsers do not take ECDSA P-521");
}

Test(tls_cert, weak_digest)
{
	EVP_PKEY *root_key = pki_key("P-256"), *key = pki_key("P-256");
	X509 *root = pki_sign(root_key, &(struct pki_cert){ .cn = "root", .ca = true });
	X509 *x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test", .issuer = root, .issuer_key = root_key, .digest = "SHA1" });

	pki_write_pair("sha1", x, NULL, key);
	expect_error("sha1.crt", "sha1.key", "sha1.crt", "OpenSSL does not serve this certificate: ca md too weak");
	X509_free(x);
	X509_free(root);
	EVP_PKEY_free(key);
	EVP_PKEY_free(root_key);
}

Test(tls_cert, dates)
{
	static const struct {
		long from, until;
		const char *words;
	} rows[] = {
		{ -86400, 365 * 86400, NULL },
		{ -2 * 86400, -86400, "expired on " },
		{ 86400, 2 * 86400, "not valid before " },
		{ -80 * 86400, 10 * 86400, "expires on " },
		{ -86400, 5 * 86400, NULL }, /* six days in all */
		{ -5 * 86400, 86400, "expires on " },
	};
	EVP_PKEY *key = pki_key("P-256");

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		X509 *x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test", .from_s = rows[i].from, .until_s = rows[i].until });

		pki_write_pair("a", x, NULL, key);
		expect_warning("a", rows[i].words);
		X509_free(x);
	}
	EVP_PKEY_free(key);
}

Test(tls_cert, chains)
{
	EVP_PKEY *root_key = pki_key("P-256"), *key = pki_key("P-256"), *other_key = pki_key("P-256");
	X509 *root = pki_sign(root_key, &(struct pki_cert){ .cn = "root", .ca = true });
	X509 *other = pki_sign(other_key, &(struct pki_cert){ .cn = "other", .ca = true });
	X509 *x = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test", .issuer = root, .issuer_key = root_key });
	X509 *client = pki_sign(key, &(struct pki_cert){ .alt = "DNS:a.test", .eku = "clientAuth" });
	char path[PKI_PATH_SIZE];
	FILE *f;

	pki_write_pair("a", x, root, key);
	expect_warning("a", NULL);
	pki_write_pair("a", x, other, key);
	expect_warning("a", "did not issue the one before it");
	pki_write_pair("a", root, x, key);
	expect_error("a.crt", "a.key", "a.key", "begins with the server's own certificate");
	pki_write_pair("a", client, NULL, key);
	expect_warning("a", "not meant for TLS servers");

	f = fopen(pki_path(path, "a.crt"), "w");
	cr_assert_not_null(f);
	for (int i = 0; i < 18; i++)
		cr_assert(PEM_write_X509(f, x));
	cr_assert_eq(fclose(f), 0);
	expect_error("a.crt", "a.key", "a.crt", "more than 16 certificates");
	X509_free(x);
	X509_free(root);
	X509_free(other);
	X509_free(client);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other_key);
	EVP_PKEY_free(root_key);
}

Test(tls_cert, names)
{
	static const struct {
		const char *cn, *alt, *names, *words;
	} rows[] = {
		{ "Fallback.Test", NULL, "fallback.test ", "no subjectAltName" },
		{ "not a host name", NULL, "", "no subjectAltName" },
		{ "ignored.test", "DNS:a.test", "a.test ", NULL },
		{ "x", "IP:192.0.2.1", "192.0.2.1 ", NULL },
		{ "x", "DNS:a.test,DNS:a b.test", "a.test ", "not a host name" },
		{ "x", "DNS:a.test,DNS:a*.test", "a.test ", "not a host name" },
		{ "x", "DNS:a.test,DNS:127.0.0.1", "a.test ", "not a host name" },
		{ "x", "DNS:a.test.", "a.test ", NULL },
		{ "x", "DNS:a.test,email:me@a.test", "a.test ", NULL },
	};
	EVP_PKEY *key = pki_key("P-256");

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		X509 *x = pki_sign(key, &(struct pki_cert){ .cn = rows[i].cn, .alt = rows[i].alt });
		char names[256] = "";
		struct tls_cert *c;
		struct heard h;

		pki_write_pair("a", x, NULL, key);
		expect_warning("a", rows[i].words);
		c = load("a.crt", "a.key", &h);
		cr_assert_not_null(c);
		for (size_t k = 0; k < tls_cert_name_count(c); k++)
			(void)snprintf(names + strlen(names), sizeof names - strlen(names), "%s ", tls_cert_name(c, k));
		cr_expect_str_eq(names, rows[i].names, "row %zu: %s", i, names);
		tls_cert_free(c);
		X509_free(x);
	}
	EVP_PKEY_free(key);
}

Test(tls_cert, key_for_everybody)
{
	char path[PKI_PATH_SIZE];

	pki_make("a", "P-256", "DNS:a.test");
	cr_assert_eq(chmod(pki_path(path, "a.key"), 0640), 0);
	expect_warning("a", NULL);
	cr_assert_eq(chmod(path, 0644), 0);
	expect_warning("a", "readable for everybody");
}

Test(tls_cert, out_of_memory)
{
	struct tls_cert *c = NULL;
	struct heard h;

	pki_make("a", "P-256", "DNS:a.test,IP:127.0.0.1");
	for (unsigned long n = 1; c == NULL; n++) {
		mem_fault_set(n, false);
		c = load("a.crt", "a.key", &h);
		cr_assert(mem_fault_hit() || c != NULL);
		mem_fault_set(0, false);
	}
	tls_cert_free(c);
}
