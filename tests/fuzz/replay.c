/* Runs every file of tests/fuzz/corpus/NAME/ through a fuzz target, once whole and once for each prefix that differs
 * in length by a power of two, so that `make check` keeps what fuzzing has found without needing libFuzzer.
 *
 * NAME comes from the program's own name (replay_NAME); the folder may also be given as the argument. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEED_MAX_BYTES = 1024 * 1024 };

/* A copy of exactly n bytes on the heap: reading one byte more is seen by the sanitizer. */
static void run(const uint8_t *data, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);
	if (!copy)
		abort();
	if (n)
		memcpy(copy, data, n);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
}

static int run_file(const char *path)
{
	static uint8_t seed[SEED_MAX_BYTES];
	FILE *f = fopen(path, "rb");
	if (!f) {
		fprintf(stderr, "replay: %s: %s\n", path, strerrordesc_np(errno));
		return 1;
	}
	size_t n = fread(seed, 1, sizeof seed, f);
	fclose(f);
	run(seed, n);
	for (size_t cut = 1; cut <= n; cut *= 2)
		run(seed, n - cut);
	return 0;
}

int main(int argc, char **argv)
{
	char folder[4096];
	const char *name = strstr(argv[0], "replay_");
	const char *source = getenv("ADIT_SRCDIR");
	if (argc > 1)
		snprintf(folder, sizeof folder, "%s", argv[1]);
	else if (name)
		snprintf(folder, sizeof folder, "%s/tests/fuzz/corpus/%s", source ? source : ".",
			name + strlen("replay_"));
	else
		return 2;

	DIR *dir = opendir(folder);
	if (!dir) {
		fprintf(stderr, "replay: %s: %s\n", folder, strerrordesc_np(errno));
		return 1;
	}
	int failed = 0;
	unsigned seeds = 0;
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		char path[8192];
		snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
		failed |= run_file(path);
		seeds++;
	}
	closedir(dir);
	if (seeds == 0) {
		fprintf(stderr, "replay: %s holds no seed\n", folder);
		return 1;
	}
	printf("replay: %s: %u seeds\n", folder, seeds);
	return failed;
}
