# The compiler: what it must be able to do, and the flags of every file. Says what to install where it cannot.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_library(qkv_flags INTERFACE)
target_compile_options(qkv_flags INTERFACE -Wall -Wextra $<$<BOOL:${QKV_WERROR}>:-Werror>)

# The word that older build trees hold for the pair.
if(QKV_SANITIZE STREQUAL "ON")
  set(QKV_SANITIZE "address,undefined")
endif()
if(QKV_SANITIZE)
  target_compile_options(qkv_flags INTERFACE
    -fsanitize=${QKV_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(qkv_flags INTERFACE -fsanitize=${QKV_SANITIZE})
endif()
