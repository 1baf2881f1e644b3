/* From the names of all certificates to sets of certificates.
 *
 * A name is served by every certificate that has it, one per key type: the exact name before the wildcard, the earlier
 * in the configuration before the later. Names with the same set share it, so that there are as few SSL_CTXs as can be.
 * The default set, for unknown names and for none, is the first certificate, and those of other key types which have
 * all of its names. */
#include "tls/sni_priv.h"

#include "adit/base/mem.h"
#include "tls/cert_priv.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 255 };

struct entry {
	const char *name; /* of a certificate; wildcards with their "*." */
	size_t cert;
	size_t set;
};

struct sni {
	struct tls_cert *const *certs;
	size_t cert_count;
	struct entry *names; /* by name, then certificate */
	size_t name_count;
	struct sni_set *sets;
	size_t set_count;
};

static int entry_compare(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order != 0 ? order : (x->cert > y->cert) - (x->cert < y->cert);
}

/* The first entry of that name; name_count when there is none. */
static size_t first_of(const struct sni *s, const char *name)
{
	size_t low = 0, high = s->name_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(s->names[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < s->name_count && strcmp(s->names[low].name, name) == 0 ? low : s->name_count;
}

static int key_type(const struct sni *s, size_t cert)
{
	return EVP_PKEY_get_base_id(s->certs[cert]->key);
}

static void set_add(const struct sni *s, struct sni_set *set, size_t cert)
{
	for (size_t i = 0; i < set->count; i++)
		if (key_type(s, set->certs[i]) == key_type(s, cert))
			return;
	if (set->count < SNI_KEY_TYPES)
		set->certs[set->count++] = cert;
}

static void set_add_name(const struct sni *s, struct sni_set *set, const char *name)
{
	for (size_t i = first_of(s, name); i < s->name_count && strcmp(s->names[i].name, name) == 0; i++)
		set_add(s, set, s->names[i].cert);
}

/* "proxy.example.org" to "*.example.org" in out; false when no wildcard can cover the name. */
static bool wildcard_of(const char *name, char *out, size_t size)
{
	const char *dot = strchr(name, '.');
	size_t n = dot ? strlen(dot) : 0;

	if (dot == NULL || dot == name || name[0] == '*' || n + 2 > size)
		return false;
	out[0] = '*';
	memcpy(out + 1, dot, n + 1);
	return true;
}

static size_t set_index(struct sni *s, const struct sni_set *set)
{
	for (size_t i = 0; i < s->set_count; i++)
		if (s->sets[i].count == set->count &&
			memcmp(s->sets[i].certs, set->certs, set->count * sizeof set->certs[0]) == 0)
			return i;
	s->sets[s->set_count] = *set;
	return s->set_count++;
}

static bool cert_has(const struct tls_cert *cert, const char *name)
{
	for (size_t i = 0; i < cert->name_count; i++)
		if (strcmp(cert->names[i], name) == 0)
			return true;
	return false;
}

static struct sni_set default_set(const struct sni *s)
{
	const struct tls_cert *first = s->certs[0];
	struct sni_set set = { .count = 1 };

	for (size_t i = 1; i < s->cert_count; i++) {
		size_t shared = 0;

		while (shared < first->name_count && cert_has(s->certs[i], first->names[shared]))
			shared++;
		if (shared > 0 && shared == first->name_count)
			set_add(s, &set, i);
	}
	return set;
}

struct sni *sni_new(struct tls_cert *const *certs, size_t count)
{
	struct sni *s = mem_alloc(sizeof *s);
	struct sni_set set;
	size_t names = 0;

	if (s == NULL)
		return NULL;
	*s = (struct sni){ .certs = certs, .cert_count = count };
	for (size_t i = 0; i < count; i++)
		names += certs[i]->name_count;
	s->names = mem_array(names, sizeof *s->names);
	s->sets = mem_array(names + 1, sizeof *s->sets);
	if (s->names == NULL || s->sets == NULL) {
		sni_free(s);
		return NULL;
	}
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < certs[i]->name_count; k++)
			s->names[s->name_count++] = (struct entry){ certs[i]->names[k], i, 0 };
	qsort(s->names, s->name_count, sizeof *s->names, entry_compare);

	set = default_set(s);
	(void)set_index(s, &set);
	for (size_t i = 0; i < s->name_count; i++) {
		struct entry *e = &s->names[i];
		char wildcard[NAME_MAX_BYTES + 1];

		set = (struct sni_set){ 0 };
		set_add_name(s, &set, e->name);
		if (wildcard_of(e->name, wildcard, sizeof wildcard))
			set_add_name(s, &set, wildcard);
		e->set = set_index(s, &set);
	}
	return s;
}

void sni_free(struct sni *s)
{
	if (s == NULL)
		return;
	mem_free(s->names);
	mem_free(s->sets);
	mem_free(s);
}

size_t sni_set_count(const struct sni *s)
{
	return s->set_count;
}

const struct sni_set *sni_set_at(const struct sni *s, size_t i)
{
	ADIT_ASSERT(i < s->set_count);
	return &s->sets[i];
}

size_t sni_find(const struct sni *s, const char *name, size_t n)
{
	char text[NAME_MAX_BYTES + 1], wildcard[NAME_MAX_BYTES + 1];
	size_t at;

	if (n > 0 && name[n - 1] == '.')
		n--;
	if (n == 0 || n > NAME_MAX_BYTES || name[0] == '*' || memchr(name, '\0', n) != NULL)
		return 0;
	for (size_t i = 0; i < n; i++)
		text[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + ('a' - 'A') : name[i]);
	text[n] = '\0';
	at = first_of(s, text);
	if (at == s->name_count && wildcard_of(text, wildcard, sizeof wildcard))
		at = first_of(s, wildcard);
	return at < s->name_count ? s->names[at].set : 0;
}
