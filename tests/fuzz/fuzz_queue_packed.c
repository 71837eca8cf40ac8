/* The packed ring under a driver that writes anything; see tests/driver/queue_fuzz.h. */
#include <stddef.h>
#include <stdint.h>

#include "tests/driver/queue_fuzz.h"
#include "tests/driver/vdriver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	queue_fuzz(data, size, VD_F_PACKED);
	return 0;
}
