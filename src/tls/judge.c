/* Is this certificate fit to be served?
 *
 * What is hard: OpenSSL takes much that no client accepts, and refuses some of it only in the handshake. What can be
 * known is said here; a trial installation in an SSL_CTX catches what only the library knows (security level,
 * unsuitable digests). */
#include "tls/judge_priv.h"

#include "tls/cert_priv.h"
#include "tls/sslerr_priv.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RSA_MIN_BITS = 2048, EXPIRY_NOTICE_S = 14 * 86400 };

void judge_say(const struct judge *l, enum tls_cert_level level, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	l->report(l->ctx, level, text);
}

static int64_t time_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) ? (int64_t)timegm(&tm) : 0;
}

static const char *time_text(int64_t at, char buf[static 32])
{
	time_t t = (time_t)at;
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL || strftime(buf, 32, "%Y-%m-%d %H:%M UTC", &tm) == 0)
		buf[0] = '\0';
	return buf;
}

/* Warnings only: a machine whose clock is wrong after a power cut must still start, and a proxy that serves an old
 * certificate is better than none. */
void judge_dates(const struct judge *l)
{
	int64_t from = time_of(X509_get0_notBefore(l->cert->leaf)), until = time_of(X509_get0_notAfter(l->cert->leaf));
	int64_t now = (int64_t)time(NULL), notice = EXPIRY_NOTICE_S;
	char text[32];

	l->cert->expires = until;
	if ((until - from) / 3 < notice)
		notice = (until - from) / 3; /* certificates that live a few days are renewed late */
	if (until <= now)
		judge_say(l, TLS_CERT_WARNING,
			"%s: the certificate expired on %s; clients will refuse it: renew it",
			l->chain_path, time_text(until, text));
	else if (from > now)
		judge_say(l, TLS_CERT_WARNING,
			"%s: the certificate is not valid before %s; check this machine's clock, or wait",
			l->chain_path, time_text(from, text));
	else if (until - now < notice)
		judge_say(l, TLS_CERT_WARNING,
			"%s: the certificate expires on %s; renew it", l->chain_path, time_text(until, text));
}

void judge_chain(const struct judge *l)
{
	X509 *below = l->cert->leaf;

	for (int i = 0; i < sk_X509_num(l->cert->chain); i++) {
		X509 *above = sk_X509_value(l->cert->chain, i);

		if (X509_check_issued(above, below) != X509_V_OK) {
			judge_say(l, TLS_CERT_WARNING,
				"%s: certificate %d did not issue the one before it; put the server's own first, then its issuer, and "
				"so on", l->chain_path, i + 2);
			break;
		}
		below = above;
	}
	if (X509_check_purpose(l->cert->leaf, X509_PURPOSE_SSL_SERVER, 0) != 1)
		judge_say(l, TLS_CERT_WARNING,
			"%s: the certificate is not meant for TLS servers (extended key usage); clients will refuse it",
			l->chain_path);
	ERR_clear_error();
}

static bool judge_key(const struct judge *l)
{
	struct tls_cert *cert = l->cert;
	int bits = EVP_PKEY_get_bits(cert->key);
	char group[32] = "";

	switch (EVP_PKEY_get_base_id(cert->key)) {
	case EVP_PKEY_RSA:
	case EVP_PKEY_RSA_PSS:
		(void)snprintf(cert->kind, sizeof cert->kind, "RSA %d", bits);
		if (bits >= RSA_MIN_BITS)
			return true;
		judge_say(l, TLS_CERT_ERROR,
			"%s: an RSA key of %d bits is too weak; make one of 2048, or better ECDSA P-256", l->key_path, bits);
		return false;
	case EVP_PKEY_EC:
		(void)EVP_PKEY_get_group_name(cert->key, group, sizeof group, NULL);
		if (strcmp(group, "prime256v1") == 0 || strcmp(group, "secp384r1") == 0 || strcmp(group, "secp521r1") == 0) {
			(void)snprintf(cert->kind, sizeof cert->kind, "ECDSA P-%d", bits);
			if (bits > 384)
				judge_say(l, TLS_CERT_WARNING,
					"%s: browsers do not take ECDSA P-521; P-256 is taken everywhere", l->chain_path);
			return true;
		}
		judge_say(l, TLS_CERT_ERROR,
			"%s: no client takes a key on the curve %s; make one on P-256",
			l->key_path, group[0] ? group : "given by its parameters");
		return false;
	case EVP_PKEY_ED25519:
	case EVP_PKEY_ED448:
		(void)snprintf(cert->kind, sizeof cert->kind, "%s",
			EVP_PKEY_get_base_id(cert->key) == EVP_PKEY_ED25519 ? "Ed25519" : "Ed448");
		judge_say(l, TLS_CERT_WARNING,
			"%s: browsers do not take %s certificates; ECDSA P-256 is taken everywhere", l->chain_path, cert->kind);
		return true;
	default:
		judge_say(l, TLS_CERT_ERROR, "%s: keys of this type are not served; make an ECDSA P-256 key", l->key_path);
		return false;
	}
}

bool judge_pair(const struct judge *l)
{
	struct tls_cert *cert = l->cert;
	char reason[SSLERR_TEXT_SIZE];
	SSL_CTX *trial;
	bool ok;

	ERR_clear_error();
	if (X509_check_private_key(cert->leaf, cert->key) != 1) {
		ERR_clear_error();
		judge_say(l, TLS_CERT_ERROR,
			"%s: the private key does not belong to the certificate in %s; check that the file begins with the "
			"server's own certificate and that both were renewed together", l->key_path, l->chain_path);
		return false;
	}
	if (!judge_key(l))
		return false;
	trial = SSL_CTX_new(TLS_server_method());
	ok = trial != NULL && SSL_CTX_use_cert_and_key(trial, cert->leaf, cert->key, cert->chain, 1) == 1;
	if (!ok)
		judge_say(l, TLS_CERT_ERROR,
			"%s: OpenSSL does not serve this certificate: %s; have a new one issued",
			l->chain_path, sslerr_drain(reason, sizeof reason));
	SSL_CTX_free(trial);
	ERR_clear_error();
	return ok;
}
