/* Names of certificates and names that clients ask for, any bytes: the set that is found is the one that a walk over the
 * certificates finds, in their order, the exact name before the wildcard, one of each key type. */
#include "fuzz/script.h"
#include "tls/cert_priv.h"
#include "tls/sni_priv.h"

#include <string.h>

enum { CERTS_MAX = 6, NAMES_MAX = 8, NAME_MAX_BYTES = 255 };

static const char *const kinds[] = { "P-256", "P-384" };
static EVP_PKEY *keys[4]; /* two of one type */

static void init(void)
{
	if (keys[0])
		return;
	keys[0] = EVP_EC_gen(kinds[0]);
	keys[1] = EVP_EC_gen(kinds[1]);
	keys[2] = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	keys[3] = EVP_PKEY_Q_keygen(NULL, NULL, "ED448");
	must(keys[0] && keys[1] && keys[2] && keys[3], "keys");
}

static bool has(const struct tls_cert *c, const char *name)
{
	for (size_t i = 0; i < c->name_count; i++)
		if (strcmp(c->names[i], name) == 0)
			return true;
	return false;
}

static void add(struct tls_cert *const *certs, struct sni_set *set, size_t which)
{
	for (size_t i = 0; i < set->count; i++)
		if (EVP_PKEY_get_base_id(certs[set->certs[i]]->key) == EVP_PKEY_get_base_id(certs[which]->key))
			return;
	set->certs[set->count++] = which;
}

static void walk(struct tls_cert *const *certs, size_t count, const char *asked, size_t n, struct sni_set *set)
{
	char name[NAME_MAX_BYTES + 2], wildcard[NAME_MAX_BYTES + 2];
	const char *dot;
	bool exact = false;

	set->count = 0;
	if (n > 0 && asked[n - 1] == '.')
		n--;
	if (n > 0 && n <= NAME_MAX_BYTES && asked[0] != '*' && !memchr(asked, '\0', n)) {
		for (size_t i = 0; i < n; i++)
			name[i] = asked[i] >= 'A' && asked[i] <= 'Z' ? (char)(asked[i] + 32) : asked[i];
		name[n] = '\0';
		dot = strchr(name, '.');
		snprintf(wildcard, sizeof(wildcard), "*%s", dot && dot != name ? dot : "");
		for (size_t i = 0; i < count; i++)
			exact = exact || has(certs[i], name);
		for (size_t i = 0; i < count; i++)
			if (has(certs[i], name))
				add(certs, set, i);
		/* a wildcard fills what key types the exact name leaves */
		for (size_t i = 0; i < count && wildcard[1] == '.'; i++)
			if (has(certs[i], wildcard))
				add(certs, set, i);
	}
	if (set->count > 0)
		return;
	add(certs, set, 0);
	for (size_t i = 1; i < count; i++) {
		bool all = certs[0]->name_count > 0;

		for (size_t k = 0; k < certs[0]->name_count; k++)
			all = all && has(certs[i], certs[0]->names[k]);
		if (all)
			add(certs, set, i);
	}
}

static void must_agree(const struct sni *sni, struct tls_cert *const *certs, size_t count, const char *name, size_t n)
{
	size_t at = sni_find(sni, name, n);
	const struct sni_set *got;
	struct sni_set want;

	must(at < sni_set_count(sni), "a set that is not there");
	got = sni_set_at(sni, at);
	walk(certs, count, name, n, &want);
	must(got->count == want.count, "another number of certificates");
	for (size_t i = 0; i < got->count; i++)
		must(got->certs[i] == want.certs[i], "another certificate");
}

/* The name as cert.c hands it on: lower case, no NUL, not too long, not empty. */
static char *take_name(struct script *s)
{
	const uint8_t *p;
	size_t left = (size_t)(s->end - s->at), n = 0;
	const uint8_t *end = left > 0 ? memchr(s->at, '\n', left) : NULL;
	char *name = malloc(NAME_MAX_BYTES + 1);

	must(name != NULL, "out of memory");
	left = script_take(s, end ? (size_t)(end + 1 - s->at) : left, &p);
	for (size_t i = 0; i < left && p[i] != '\n' && n < NAME_MAX_BYTES; i++)
		if (p[i] != '\0')
			name[n++] = (char)(p[i] >= 'A' && p[i] <= 'Z' ? p[i] + 32 : p[i]);
	if (n == 0)
		name[n++] = 'a';
	name[n] = '\0';
	return name;
}

/* A digit: how many certificates; for each a digit for its key and one for the number of its names, then these, a line
 * each. Then the name that is asked for. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, data + size };
	size_t count = 1 + script_digit(&s) % CERTS_MAX;
	struct tls_cert *certs[CERTS_MAX];
	struct sni *sni;

	init();
	for (size_t i = 0; i < count; i++) {
		struct tls_cert *c = certs[i] = calloc(1, sizeof(*c));

		must(c != NULL, "out of memory");
		c->key = keys[script_digit(&s) & 3];
		c->name_count = script_digit(&s) % NAMES_MAX;
		c->names = calloc(NAMES_MAX, sizeof(*c->names));
		must(c->names != NULL, "out of memory");
		for (size_t k = 0; k < c->name_count; k++)
			c->names[k] = take_name(&s);
	}
	sni = sni_new(certs, count);
	must(sni != NULL, "out of memory");
	must_agree(sni, certs, count, s.at < s.end ? (const char *)s.at : "", (size_t)(s.end - s.at));
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < certs[i]->name_count; k++)
			must_agree(sni, certs, count, certs[i]->names[k], strlen(certs[i]->names[k]));
	sni_free(sni);
	for (size_t i = 0; i < count; i++) {
		for (size_t k = 0; k < certs[i]->name_count; k++)
			free(certs[i]->names[k]);
		free(certs[i]->names);
		free(certs[i]);
	}
	return 0;
}
