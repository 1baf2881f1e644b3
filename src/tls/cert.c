/* Loads a certificate chain and its key, and says in plain sentences what is wrong with them.
 *
 * What is hard: OpenSSL would ask for a passphrase on the terminal and reports a missing key as "no start line". So the
 * files are read by us, and every finding names its file and a remedy. */
#include "tls/cert_priv.h"

#include "adit/base/authority.h"
#include "adit/base/mem.h"
#include "tls/judge_priv.h"
#include "tls/sslerr_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* a wildcard, a name, NUL */
enum { NAME_SIZE = sizeof((struct host *)0)->text + 2 };
enum { FILE_MAX_BYTES = 1 << 20, CHAIN_MAX = 16 };

/* --- files --- */

char *cert_read_file(const char *path, size_t most, size_t *size, unsigned *mode, char *reason, size_t reason_size)
{
	char *buf = NULL, text[96];
	size_t used = 0;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0 || fstat(fd, &st) != 0)
		goto system_error;
	if (mode != NULL)
		*mode = S_ISREG(st.st_mode) ? (unsigned)(st.st_mode & 07777) : 0;
	buf = mem_alloc(most + 2);
	if (buf == NULL) {
		errno = ENOMEM;
		goto system_error;
	}
	/* pipes are fine (a key from a password manager), so the size is known at the end only */
	for (;;) {
		ssize_t n = read(fd, buf + used, most + 1 - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			goto system_error;
		used += (size_t)n;
		if (n == 0)
			break;
		if (used > most) {
			(void)snprintf(reason, reason_size, "larger than %zu bytes", most);
			goto fail;
		}
	}
	(void)close(fd);
	*size = used;
	return buf;
system_error:
	(void)snprintf(reason, reason_size, "%s", strerror_r(errno, text, sizeof text));
fail:
	if (fd >= 0)
		(void)close(fd);
	if (buf != NULL)
		mem_burn(buf, most + 2);
	mem_free(buf);
	return NULL;
}

static char *read_pem(const struct judge *l, const char *path, const char *what, size_t *size, unsigned *mode)
{
	char reason[128];
	char *buf = cert_read_file(path, FILE_MAX_BYTES, size, mode, reason, sizeof reason);

	if (buf == NULL) {
		judge_say(l, TLS_CERT_ERROR,
			"%s: the %s cannot be read: %s; the file must be there and readable for the service user",
			path, what, reason);
		return NULL;
	}
	if (*size > 0 && buf[0] == 0x30 && memmem(buf, *size, "-----BEGIN", 10) == NULL) {
		judge_say(l, TLS_CERT_ERROR,
			"%s: the %s is in DER, not in PEM; convert it with: openssl %s -inform der -in %s",
			path, what, strcmp(what, "private key") == 0 ? "pkey" : "x509", path);
		mem_burn(buf, *size);
		mem_free(buf);
		return NULL;
	}
	return buf;
}

/* In place of OpenSSL's question on the terminal. */
static int refuse_passphrase(char *buf ADIT_UNUSED, int size ADIT_UNUSED, int writing ADIT_UNUSED, void *asked)
{
	*(bool *)asked = true;
	return -1;
}

static bool load_chain(const struct judge *l)
{
	struct tls_cert *cert = l->cert;
	char reason[SSLERR_TEXT_SIZE];
	bool asked = false, ok = false;
	unsigned long last;
	size_t size;
	char *pem = read_pem(l, l->chain_path, "certificate", &size, NULL);
	BIO *bio = pem ? BIO_new_mem_buf(pem, (int)size) : NULL;

	if (pem == NULL)
		return false;
	cert->chain = sk_X509_new_null();
	if (bio == NULL || cert->chain == NULL) {
		judge_say(l, TLS_CERT_ERROR, "%s: out of memory", l->chain_path);
		goto out;
	}
	ERR_clear_error();
	for (int i = 0; i <= CHAIN_MAX; i++) {
		X509 *x = PEM_read_bio_X509(bio, NULL, refuse_passphrase, &asked);

		if (x == NULL)
			break;
		if (cert->leaf == NULL) {
			cert->leaf = x;
		} else if (!sk_X509_push(cert->chain, x)) {
			X509_free(x);
			judge_say(l, TLS_CERT_ERROR, "%s: out of memory", l->chain_path);
			goto out;
		}
	}
	last = ERR_peek_last_error();
	if (ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE)
		ERR_clear_error(); /* the end of the file */
	if (ERR_peek_error() != 0)
		judge_say(l, TLS_CERT_ERROR,
			"%s: certificate %d is damaged: %s; write the file again",
			l->chain_path, cert->leaf ? sk_X509_num(cert->chain) + 2 : 1, sslerr_drain(reason, sizeof reason));
	else if (cert->leaf == NULL)
		judge_say(l, TLS_CERT_ERROR,
			"%s: there is no certificate in it; it needs one or more -----BEGIN CERTIFICATE----- blocks, the server's "
			"own first", l->chain_path);
	else if (sk_X509_num(cert->chain) >= CHAIN_MAX)
		judge_say(l, TLS_CERT_ERROR,
			"%s: more than %d certificates; it takes the server's own and what leads to the root, not all roots",
			l->chain_path, CHAIN_MAX);
	else
		ok = true;
out:
	ERR_clear_error();
	BIO_free(bio);
	mem_burn(pem, size); /* the key may be in the same file */
	mem_free(pem);
	return ok;
}

static bool load_key(const struct judge *l)
{
	char reason[SSLERR_TEXT_SIZE];
	bool asked = false;
	size_t size;
	unsigned mode;
	char *pem = read_pem(l, l->key_path, "private key", &size, &mode);
	BIO *bio = pem ? BIO_new_mem_buf(pem, (int)size) : NULL;

	if (pem == NULL)
		return false;
	ERR_clear_error();
	if (bio != NULL)
		l->cert->key = PEM_read_bio_PrivateKey(bio, NULL, refuse_passphrase, &asked);
	if (l->cert->key != NULL) {
		if (mode & S_IROTH)
			judge_say(l, TLS_CERT_WARNING,
				"%s: the private key is readable for everybody; chmod o= %s", l->key_path, l->key_path);
	} else if (asked) {
		judge_say(l, TLS_CERT_ERROR,
			"%s: the private key is encrypted, and nobody is asked for a passphrase; decrypt it with: openssl pkey -in "
			"%s -out NEW, and keep NEW readable for the service user only", l->key_path, l->key_path);
	} else if (memmem(pem, size, "PRIVATE KEY-----", 16) == NULL) {
		judge_say(l, TLS_CERT_ERROR,
			"%s: there is no private key in it; it needs a -----BEGIN PRIVATE KEY----- block", l->key_path);
	} else {
		judge_say(l, TLS_CERT_ERROR,
			"%s: the private key is damaged: %s; write the file again",
			l->key_path, bio ? sslerr_drain(reason, sizeof reason) : "out of memory");
	}
	ERR_clear_error();
	BIO_free(bio);
	mem_burn(pem, size);
	mem_free(pem);
	return l->cert->key != NULL;
}

/* --- names --- */

/* A name as look-ups want it, or "" when no client could ask for it. */
static void name_canonical(const char *p, size_t n, char out[static NAME_SIZE])
{
	struct host host;
	bool wild = n > 2 && p[0] == '*' && p[1] == '.';
	struct slice rest = { wild ? p + 2 : p, wild ? n - 2 : n };

	out[0] = '\0';
	if (host_parse(rest, &host) == REASON_OK && host.kind == HOST_IS_NAME)
		(void)snprintf(out, NAME_SIZE, "%s%s", wild ? "*." : "", host.text);
}

static bool add_name(const struct judge *l, const char *name)
{
	char *copy = mem_strdup(name);

	if (copy == NULL) {
		judge_say(l, TLS_CERT_ERROR, "%s: out of memory", l->chain_path);
		return false;
	}
	l->cert->names[l->cert->name_count++] = copy;
	return true;
}

static bool add_dns_name(const struct judge *l, const ASN1_STRING *s)
{
	const char *p = (const char *)ASN1_STRING_get0_data(s);
	size_t n = (size_t)ASN1_STRING_length(s);
	char name[NAME_SIZE];

	name_canonical(p, n, name);
	if (name[0] != '\0')
		return add_name(l, name);
	judge_say(l, TLS_CERT_WARNING, "%s: one of its DNS names is not a host name and is left out", l->chain_path);
	return true;
}

static bool add_address(const struct judge *l, const ASN1_STRING *s)
{
	char text[INET6_ADDRSTRLEN] = "";
	int n = ASN1_STRING_length(s);

	if (n == 4 || n == 16)
		(void)inet_ntop(n == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(s), text, sizeof text);
	return text[0] == '\0' || add_name(l, text);
}

static bool collect_common_name(const struct judge *l)
{
	X509_NAME *subject = X509_get_subject_name(l->cert->leaf);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	unsigned char *utf8 = NULL;
	char name[NAME_SIZE] = "";
	int n = at < 0 ? -1 : ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));

	if (n > 0)
		name_canonical((const char *)utf8, (size_t)n, name);
	OPENSSL_free(utf8);
	judge_say(l, TLS_CERT_WARNING,
		"%s: the certificate has no subjectAltName; clients look at nothing else, so most will refuse it",
		l->chain_path);
	return name[0] == '\0' || add_name(l, name);
}

static bool collect_names(const struct judge *l)
{
	GENERAL_NAMES *all = X509_get_ext_d2i(l->cert->leaf, NID_subject_alt_name, NULL, NULL);
	int count = all ? sk_GENERAL_NAME_num(all) : 0;
	bool ok = false;

	l->cert->names = mem_array((size_t)count + 1, sizeof *l->cert->names);
	if (l->cert->names == NULL) {
		judge_say(l, TLS_CERT_ERROR, "%s: out of memory", l->chain_path);
		goto out;
	}
	for (int pass = GEN_DNS; ; pass = GEN_IPADD) {
		for (int i = 0; i < count; i++) {
			const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);

			if (g->type == GEN_DNS && pass == GEN_DNS && !add_dns_name(l, g->d.dNSName))
				goto out;
			if (g->type == GEN_IPADD && pass == GEN_IPADD && !add_address(l, g->d.iPAddress))
				goto out;
		}
		if (pass == GEN_IPADD)
			break;
	}
	ok = l->cert->name_count > 0 || collect_common_name(l);
out:
	GENERAL_NAMES_free(all);
	ERR_clear_error();
	return ok;
}

/* --- contract --- */

struct tls_cert *tls_cert_load(const char *chain_path, const char *key_path, tls_cert_report_fn *report, void *ctx)
{
	struct judge l = { chain_path, key_path ? key_path : chain_path, report, ctx, mem_alloc(sizeof *l.cert) };
	bool ok;

	if (l.cert == NULL) {
		judge_say(&l, TLS_CERT_ERROR, "%s: out of memory", chain_path);
		return NULL;
	}
	/* both files are looked at even when the first is bad, so that all is said at once */
	ok = load_chain(&l);
	ok = load_key(&l) && ok;
	ok = ok && judge_pair(&l) && collect_names(&l);
	if (!ok) {
		tls_cert_free(l.cert);
		return NULL;
	}
	judge_dates(&l);
	judge_chain(&l);
	return l.cert;
}

bool tls_cert_check(const char *chain_path, const char *key_path, tls_cert_report_fn *report, void *ctx)
{
	struct tls_cert *cert = tls_cert_load(chain_path, key_path, report, ctx);

	tls_cert_free(cert);
	return cert != NULL;
}

void tls_cert_free(struct tls_cert *cert)
{
	if (cert == NULL)
		return;
	X509_free(cert->leaf);
	sk_X509_pop_free(cert->chain, X509_free);
	EVP_PKEY_free(cert->key); /* wipes the key */
	for (size_t i = 0; i < cert->name_count; i++)
		mem_free(cert->names[i]);
	mem_free(cert->names);
	mem_free(cert);
}

size_t tls_cert_name_count(const struct tls_cert *cert)
{
	return cert->name_count;
}

const char *tls_cert_name(const struct tls_cert *cert, size_t i)
{
	ADIT_ASSERT(i < cert->name_count);
	return cert->names[i];
}

const char *tls_cert_key_kind(const struct tls_cert *cert)
{
	return cert->kind;
}

int64_t tls_cert_expires(const struct tls_cert *cert)
{
	return cert->expires;
}
