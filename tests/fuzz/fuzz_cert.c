/* Any bytes as the file with a certificate chain, beside a key that is always the same: loaded or refused with a reason,
 * its names as clients may ask for them, one sentence a line about it, no word of the key, nothing left in OpenSSL's
 * queue. */
#include "fuzz/certs.h"
#include "fuzz/script.h"
#include "tls/cert_priv.h"

#include <openssl/err.h>

enum { FILE_MAX = 16384 };

/* RFC 8032 7.1, the first test's secret */
static const unsigned char secret[32] = {
	0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
	0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
};
static int chain_fd = -1;
static char chain_path[32], key_path[32];
static unsigned errors;

static void on_report(void *ctx, enum tls_cert_level level, const char *sentence)
{
	size_t n = strlen(sentence);

	must(ctx == secret && n > 0 && n < 1024, "a sentence");
	for (size_t i = 0; i < n; i++)
		must((unsigned char)sentence[i] >= 0x20 && sentence[i] != 0x7f, "a byte in a sentence");
	errors += level == TLS_CERT_ERROR;
}

static void init(void)
{
	EVP_PKEY *key;

	if (chain_fd >= 0)
		return;
	key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, secret, sizeof(secret));
	must(key != NULL, "a key");
	certs_put_key(certs_file(key_path), key);
	EVP_PKEY_free(key);
	chain_fd = certs_file(chain_path);
}

static void check_names(const struct tls_cert *cert)
{
	for (size_t i = 0; i < tls_cert_name_count(cert); i++) {
		const char *name = tls_cert_name(cert, i);

		must(name[0] != '\0' && strlen(name) <= 255, "length of a name");
		for (const char *p = name; *p; p++)
			must((unsigned char)*p > 0x20 && (unsigned char)*p < 0x7f && !(*p >= 'A' && *p <= 'Z'), "a byte in a name");
	}
}

/* A certificate as it is inside PEM, so that what is changed in it reaches the reader of certificates. */
static void fill_wrapped(const uint8_t *der, size_t n)
{
	static char text[2 * FILE_MAX];
	BIO *bio = BIO_new(BIO_s_mem());
	char *p;
	long got;

	must(bio && PEM_write_bio(bio, "CERTIFICATE", "", der, (long)n) > 0, "PEM");
	got = BIO_get_mem_data(bio, &p);
	must((size_t)got <= sizeof(text), "PEM");
	memcpy(text, p, (size_t)got);
	BIO_free(bio);
	certs_fill(chain_fd, text, (size_t)got);
}

/* First byte: 1 the key is looked for in the same file; 2 the rest is DER, not the file as it is; 4 checked as well. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	void *ctx = (void *)(uintptr_t)secret;
	struct tls_cert *cert;
	const char *key;

	if (size < 1 || size > FILE_MAX)
		return 0;
	init();
	key = data[0] & 1 ? NULL : key_path;
	if ((data[0] & 2) && size > 1)
		fill_wrapped(data + 1, size - 1);
	else
		certs_fill(chain_fd, data + 1, size - 1);
	errors = 0;
	cert = tls_cert_load(chain_path, key, on_report, ctx);
	must((cert == NULL) == (errors > 0), "errors and the outcome");
	if (cert) {
		check_names(cert);
		must(!key || strcmp(tls_cert_key_kind(cert), "Ed25519") == 0, "the kind of a key");
	}
	must(ERR_peek_error() == 0, "errors are left in OpenSSL's queue");
	if (data[0] & 4) {
		errors = 0;
		must(tls_cert_check(chain_path, key, on_report, ctx) == (cert != NULL), "a check that says something else");
	}
	tls_cert_free(cert);
	return 0;
}
