"""What methods of the family add, one small file each."""
