/* Keys and certificates made for one test, in a folder that goes with it; and TLS handshakes in memory. */
#ifndef ADIT_TESTS_TLS_PKI_H
#define ADIT_TESTS_TLS_PKI_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

enum { PKI_PATH_SIZE = 128 };

/* Criterion's .init and .fini. */
void pki_setup(void);
void pki_teardown(void);

/* "DIR/name"; buf is returned. */
const char *pki_path(char buf[static PKI_PATH_SIZE], const char *name);
void pki_write(const char *name, const void *bytes, size_t n);

EVP_PKEY *pki_key(const char *kind); /* "P-256", "P-384", "secp256k1", "RSA 2048", "ED25519", "ED448", "X25519" */

struct pki_cert {
	const char *cn; /* NULL: "test" */
	const char *alt; /* as OpenSSL's configuration has it: "DNS:a,IP:127.0.0.1"; NULL: none */
	const char *eku; /* NULL: none */
	bool ca;
	long from_s, until_s; /* relative to the present; both 0: yesterday and in a year */
	X509 *issuer; /* NULL: self-signed */
	EVP_PKEY *issuer_key;
	const char *digest; /* NULL: SHA256 */
};
X509 *pki_sign(EVP_PKEY *key, const struct pki_cert *what);
/* Writes NAME.crt with leaf (and chain, when given) and NAME.key. */
void pki_write_pair(const char *name, X509 *leaf, X509 *chain, EVP_PKEY *key);
/* All of it for a name: a self-signed certificate with a key of that kind. */
void pki_make(const char *name, const char *kind, const char *alt);

/* --- handshakes --- */
struct shake {
	/* asked for */
	int version; /* 0: the highest */
	const char *sni;
	const unsigned char *alpn;
	size_t alpn_n;
	bool without_h2, h2_last; /* the server's side */
	const char *ciphers, *suites, *groups, *sigalgs;
	SSL_SESSION *session; /* to resume */
	/* seen by the client, unless said otherwise */
	bool ok;
	bool resumed;
	int alert; /* that the client got; -1: none */
	int tickets;
	SSL_SESSION *got; /* the newest ticket; the caller's */
	int peer_key; /* EVP_PKEY_* of the server's certificate */
	char peer_cn[64];
	char chosen[32]; /* ALPN */
	char cipher[64];
	int negotiated;
	int group;
	char server_saw_sni[260];
};
/* Shakes hands with `server` (which is freed), passes one byte each way, and closes. */
void shake_hands(SSL *server, struct shake *s);
void shake_drop(struct shake *s); /* frees what it got */

#endif
