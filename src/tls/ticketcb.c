/* Session tickets as OpenSSL asks for them: AES-256-CBC and HMAC-SHA256 (RFC 5077 section 4) under the ring's keys.
 *
 * The ring hangs on the SSL_CTX, so that it lives as long as there are connections which may issue a ticket. */
#include "tls/ticketcb_priv.h"

#include "adit/base/mem.h"
#include "tls/tickets_priv.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <string.h>

static int ring_index = -1;
static EVP_CIPHER *cipher_cbc; /* fetched once for the process: a look-up by name costs more than the encryption */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void on_ctx_free(void *parent ADIT_UNUSED, void *ptr, CRYPTO_EX_DATA *ad ADIT_UNUSED, int index ADIT_UNUSED,
	long argl ADIT_UNUSED, void *argp ADIT_UNUSED)
{
	tls_tickets_unref(ptr);
}

static void prepare(void)
{
	cipher_cbc = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
	ring_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_ctx_free);
}

static bool mac_init(EVP_MAC_CTX *mac, const struct ticket_key *key)
{
	static char digest[] = "SHA256";
	const OSSL_PARAM params[] = { OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, sizeof digest - 1),
		OSSL_PARAM_construct_end() };

	return EVP_MAC_init(mac, key->mac, sizeof key->mac, params) == 1;
}

static int issue(struct tls_tickets *t, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
	EVP_MAC_CTX *mac)
{
	struct ticket_key key;
	bool ok = tickets_current(t, &key) && RAND_bytes(iv, EVP_CIPHER_get_iv_length(cipher_cbc)) == 1 &&
		EVP_EncryptInit_ex2(cipher, cipher_cbc, key.aes, iv, NULL) == 1 && mac_init(mac, &key);

	if (ok)
		memcpy(name, key.name, TICKET_NAME_BYTES);
	mem_burn(&key, sizeof key);
	return ok ? 1 : -1;
}

/* Returns 0: not ours, a full handshake follows; 1: good; 2: good, and the client gets a new one.
 *
 * TLS 1.3 clients use a ticket once (RFC 8446 appendix C.4; browsers do), so without a new one every second connection
 * would be a full handshake. TLS 1.2 clients use theirs again until it expires; they get a new one when the key has
 * changed. */
static int take(struct tls_tickets *t, SSL *ssl, const unsigned char *name, const unsigned char *iv,
	EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
{
	struct ticket_key key;
	enum ticket_found found = tickets_find(t, name, &key);
	bool ok;

	if (found == TICKET_UNKNOWN)
		return 0;
	ok = mac_init(mac, &key) && EVP_DecryptInit_ex2(cipher, cipher_cbc, key.aes, iv, NULL) == 1;
	mem_burn(&key, sizeof key);
	if (!ok)
		return -1;
	return found == TICKET_OLD || SSL_version(ssl) >= TLS1_3_VERSION ? 2 : 1;
}

static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
	int issuing)
{
	struct tls_tickets *t = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ring_index);

	ADIT_ASSERT(t != NULL);
	return issuing ? issue(t, name, iv, cipher, mac) : take(t, ssl, name, iv, cipher, mac);
}

bool ticketcb_install(struct tls_tickets *t, SSL_CTX *ctx, unsigned lifetime_s)
{
	(void)pthread_once(&once, prepare);
	if (ring_index < 0 || cipher_cbc == NULL)
		return false;
	if (lifetime_s == 0) {
		(void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
		return SSL_CTX_set_num_tickets(ctx, 0) == 1;
	}
	if (SSL_CTX_set_ex_data(ctx, ring_index, t) != 1)
		return false;
	(void)tls_tickets_ref(t);
	(void)SSL_CTX_set_timeout(ctx, (long)lifetime_s);
	return SSL_CTX_set_num_tickets(ctx, 1) == 1 && SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket) == 1;
}

