/* For the tests: the hash under a given key. */
#ifndef ADIT_BASE_LRU_PRIV_H
#define ADIT_BASE_LRU_PRIV_H

#include <stddef.h>
#include <stdint.h>

uint64_t lru_siphash(const uint8_t key[static 16], const void *data, size_t size);

#endif
