# SPDX-License-Identifier: Apache-2.0
add_library(mcmesh_node_config STATIC ${CMAKE_SOURCE_DIR}/node/config.c)
target_link_libraries(mcmesh_node_config PUBLIC mcmesh_flags mcmesh_common mcmesh_gmp)
