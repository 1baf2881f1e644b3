/* A key that is always the same, and certificates for it: a seed may hold a certificate, but no private key. */
#ifndef ADIT_TESTS_FUZZ_CERTS_H
#define ADIT_TESTS_FUZZ_CERTS_H

#include "fuzz/script.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file without a name, its path in `path`. */
static inline int certs_file(char path[static 32])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	must(fd >= 0 && fchmod(fd, 0600) == 0, "a file in memory");
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

static inline void certs_fill(int fd, const void *p, size_t n)
{
	must(ftruncate(fd, 0) == 0 && pwrite(fd, p, n, 0) == (ssize_t)n, "a file in memory");
}

/* PEM into the file. */
static inline void certs_put_key(int fd, EVP_PKEY *key)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;
	long n;

	must(bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL), "a key");
	n = BIO_get_mem_data(bio, &text);
	certs_fill(fd, text, (size_t)n);
	BIO_free(bio);
}

static inline void certs_put_self_signed(int fd, EVP_PKEY *key, const char *name)
{
	X509 *x = X509_new();
	BIO *bio = BIO_new(BIO_s_mem());
	X509_EXTENSION *alt;
	char *text, value[64];
	long n;

	must(x && bio && X509_set_version(x, X509_VERSION_3) && ASN1_INTEGER_set(X509_get_serialNumber(x), 1), "a certificate");
	must(X509_gmtime_adj(X509_getm_notBefore(x), -86400) && X509_gmtime_adj(X509_getm_notAfter(x), 365L * 86400), "dates");
	must(X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0), "a name");
	snprintf(value, sizeof(value), "DNS:%s", name);
	alt = X509V3_EXT_nconf_nid(NULL, NULL, NID_subject_alt_name, value);
	must(alt && X509_add_ext(x, alt, -1) && X509_set_issuer_name(x, X509_get_subject_name(x)), "names");
	X509_EXTENSION_free(alt);
	must(X509_set_pubkey(x, key) && X509_sign(x, key, EVP_sha256()) > 0 && PEM_write_bio_X509(bio, x), "a certificate");
	n = BIO_get_mem_data(bio, &text);
	certs_fill(fd, text, (size_t)n);
	BIO_free(bio);
	X509_free(x);
}

#endif
