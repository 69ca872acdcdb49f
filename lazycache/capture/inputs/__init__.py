"""What a forward pass is called with: ids, masks, annotations, examples."""
