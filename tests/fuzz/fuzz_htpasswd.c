/* An htpasswd file: it is either taken, and then every user is found by name, has a clean name and a hash that can be
 * checked, or refused, and then at least one line is named. */
#include "adit/auth/users.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct said { unsigned count, last_line, lines_in_file; };

static void must(bool holds)
{
	if (!holds)
		abort();
}

static void on_report(void *ctx, unsigned line, const char *message)
{
	struct said *said = ctx;

	must(message && *message && strlen(message) < 512);
	must(line <= said->lines_in_file);
	must(line == 0 || line >= said->last_line);
	said->last_line = line;
	said->count++;
}

static void check_user(const struct users *users, const struct user *user, struct slice text)
{
	size_t name_n = strlen(user->name), hash_n = strlen(user->hash);
	bool found = false;

	must(users_find(users, slice_of(user->name)) == user);
	must(name_n > 0 && name_n <= 255 && hash_n > 20 && hash_n < 256 && !users_name_fault(slice_of(user->name)));
	must(user->kind < HASH_KIND_COUNT && hash_kind_name(user->kind));
	for (size_t i = 0; i < hash_n; i++)
		must(user->hash[i] > ' ' && user->hash[i] <= '~' && user->hash[i] != ':');
	/* name, colon and hash stand in the file as they are */
	for (size_t i = 0; !found && i + name_n + 1 + hash_n <= text.n; i++)
		found = memcmp(text.p + i, user->name, name_n) == 0 && text.p[i + name_n] == ':' &&
			memcmp(text.p + i + name_n + 1, user->hash, hash_n) == 0;
	must(found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice text = { (const char *)data, size };
	struct said said = { .lines_in_file = 1 };
	struct users *users;

	for (size_t i = 0; i < size; i++)
		said.lines_in_file += data[i] == '\n';
	users = users_parse(text, on_report, &said);
	must((users != NULL) == (said.count == 0));
	if (!users)
		return 0;
	must(users_count(users) <= said.lines_in_file);
	for (size_t i = 0; i < users_count(users); i++) {
		check_user(users, users_at(users, i), text);
		must(i == 0 || users_at(users, i)->line > users_at(users, i - 1)->line);
	}
	users_unref(users);
	return 0;
}
