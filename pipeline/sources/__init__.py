"""What can be converted, one file a kind: each lists candidates in a fixed order and says where their bytes lie."""
