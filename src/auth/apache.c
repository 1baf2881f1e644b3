/* The two kinds of htpasswd line that are Apache's and not libcrypt's: $apr1$ and {SHA}.
 *
 * $apr1$ is the MD5-based crypt of BSD under another magic word: a digest of password, magic and salt, stretched by a
 * second digest and by one byte per bit of the length, then a thousand rounds whose ingredients depend on the round's
 * number. Weak by today's measure and still what `htpasswd -m` writes. */
#include "auth/hash_priv.h"

#include "adit/base/mem.h"

#include <openssl/evp.h>

enum { MD5_BYTES = 16, SHA1_BYTES = 20, APR1_ROUNDS = 1000 };

static bool add(EVP_MD_CTX *md, const void *p, size_t n)
{
	return EVP_DigestUpdate(md, p, n) == 1;
}

static bool begin(EVP_MD_CTX *md)
{
	return EVP_DigestInit_ex(md, EVP_md5(), NULL) == 1;
}

static bool end(EVP_MD_CTX *md, unsigned char digest[static MD5_BYTES])
{
	return EVP_DigestFinal_ex(md, digest, NULL) == 1;
}

/* Little end first, six bits a character, in crypt's alphabet. */
static char *put_sextets(char *to, unsigned value, int count)
{
	static const char alphabet[] = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	for (; count > 0; count--, value >>= 6)
		*to++ = alphabet[value & 63u];
	return to;
}

/* The bytes are written in an order of their own: each row makes four characters. */
static void put_digest(const unsigned char d[static MD5_BYTES], char *to)
{
	static const unsigned char rows[5][3] = {
		{ 0, 6, 12 }, { 1, 7, 13 }, { 2, 8, 14 }, { 3, 9, 15 }, { 4, 10, 5 }
	};

	for (size_t i = 0; i < 5; i++)
		to = put_sextets(to, (unsigned)d[rows[i][0]] << 16 | (unsigned)d[rows[i][1]] << 8 | d[rows[i][2]], 4);
	to = put_sextets(to, d[11], 2);
	*to = '\0';
}

static bool first_digest(EVP_MD_CTX *md, const char *password, size_t n, struct slice salt,
	unsigned char digest[static MD5_BYTES])
{
	static const char magic[] = "$apr1$";
	bool ok = begin(md) && add(md, password, n) && add(md, salt.p, salt.n) && add(md, password, n) && end(md, digest);

	ok = ok && begin(md) && add(md, password, n) && add(md, magic, sizeof(magic) - 1) && add(md, salt.p, salt.n);
	for (size_t left = n; ok && left > 0; left -= left < MD5_BYTES ? left : MD5_BYTES)
		ok = add(md, digest, left < MD5_BYTES ? left : MD5_BYTES);
	for (size_t bits = n; ok && bits > 0; bits >>= 1)
		ok = add(md, bits & 1 ? "" : password, 1); /* a zero byte, or the password's first */
	return ok && end(md, digest);
}

bool apache_apr1(const char *password, size_t n, struct slice salt, char out[static APACHE_APR1_TEXT + 1])
{
	unsigned char digest[MD5_BYTES];
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool ok = md && first_digest(md, password, n, salt, digest);

	for (unsigned round = 0; ok && round < APR1_ROUNDS; round++) {
		bool odd = round % 2 != 0;

		ok = begin(md) && (odd ? add(md, password, n) : add(md, digest, MD5_BYTES));
		if (round % 3 != 0)
			ok = ok && add(md, salt.p, salt.n);
		if (round % 7 != 0)
			ok = ok && add(md, password, n);
		ok = ok && (odd ? add(md, digest, MD5_BYTES) : add(md, password, n)) && end(md, digest);
	}
	if (ok)
		put_digest(digest, out);
	EVP_MD_CTX_free(md); /* wipes its state */
	mem_burn(digest, sizeof(digest));
	return ok;
}

bool apache_sha1(const char *password, size_t n, char out[static APACHE_SHA1_TEXT + 1])
{
	unsigned char digest[SHA1_BYTES];
	bool ok = EVP_Digest(password, n, digest, NULL, EVP_sha1(), NULL) == 1;

	if (ok)
		EVP_EncodeBlock((unsigned char *)out, digest, SHA1_BYTES);
	mem_burn(digest, sizeof(digest));
	return ok;
}
