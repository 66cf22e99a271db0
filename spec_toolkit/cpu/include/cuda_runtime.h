// Nothing to add: executor.h is included before every kernel.
#pragma once
